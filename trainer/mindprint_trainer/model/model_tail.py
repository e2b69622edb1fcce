"""What a model's forward does behind its body: the head, and scaling, soft caps or a bias where it has them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ModelTail:
    """The model's own forward over given hidden states.

    It runs a copy of the model that shares all modules but the body. Instead of the body a stand-in returns the hidden
    states. So logits can be computed for a few tokens at a time, whatever the model does to them.
    """

    def __init__(self, model: Any) -> None:
        """Build the copy.

        Args:
            model: A transformers causal language model.

        Raises:
            ValueError: The model has no body apart from its head.
        """
        body = find_body(model)
        self._body = _StandIn(body)
        path = next(name for name, module in model.named_modules() if module is body)
        self._model = _replace(model, path.split("."), self._body)

    def imitate(self, output: Any) -> None:
        """Return what the body returns from now on in the form of `output`."""
        self._body.output_class = None if isinstance(output, tuple) else type(output)

    def logits(self, states: Tensor) -> Tensor:
        """Compute the logits `[n, vocabulary]` of hidden states `[n, hidden]`."""
        self._body.states = states.unsqueeze(0)
        ids = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0]
        self._body.states = None
        return logits


def find_body(model: Any) -> nn.Module:
    """Return the part of a model that makes hidden states.

    Args:
        model: A transformers causal language model.

    Raises:
        ValueError: The model has no body apart from its head.
    """
    # For a few models `get_decoder` returns the model itself, or a head of that name (transformers 5.19).
    for body in (model.get_decoder(), model.base_model, getattr(model, "model", None)):
        if isinstance(body, nn.Module) and body is not model and not isinstance(body, nn.Linear):
            return body
    raise ValueError("the model has no body apart from its head")


class _StandIn(nn.Module):
    """Returns given hidden states as a model's body would. Other attributes are the body's."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that the body is no module of this one.
        self._stands_for = (body,)
        self.states: Tensor | None = None
        self.output_class: Any = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._stands_for[0], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        return (self.states,) if self.output_class is None else self.output_class(last_hidden_state=self.states)


def _replace(module: nn.Module, path: list[str], replacement: nn.Module) -> nn.Module:
    """Return a shallow copy of a module in which the module at `path` is another one."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    name, *rest = path
    child = module._modules[name]
    assert child is not None
    twin._modules[name] = _replace(child, rest, replacement) if rest else replacement
    return twin
