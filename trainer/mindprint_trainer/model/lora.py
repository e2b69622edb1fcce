"""LoRA on linear layers, for the adapters of several users at once over one frozen base.

PEFT's layers hold one active adapter for the whole batch and are put into the model itself. Here each token of a pass
names its adapter, and the base model is never changed: a `LoraModelView` has module objects of its own around the
base's weights. So several training runs may use one base at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from mindprint_trainer.model.forward_path import ForwardPath
from mindprint_trainer.model.model_tail import ModelTail, find_body
from mindprint_trainer.model.module_copy import copy_modules
from mindprint_trainer.model.tree_attention import ATTENTION_NAME

PLAIN = ForwardPath("chains", "sdpa", "head")
"""Rows without shared prefixes through torch's own attention."""


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens `start:stop` of a pass, laid out flat, that go through one adapter."""

    adapter: int
    """Index of the adapter in the view."""
    start: int
    stop: int


@dataclass(frozen=True)
class LoraConfig:
    """Size and place of an adapter: PEFT's `r`, `lora_alpha` and `target_modules`."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    """The last parts of the names of the linear layers."""

    @property
    def scaling(self) -> float:
        """Return alpha / rank, the factor of what the adapter adds."""
        return self.alpha / self.rank


@dataclass
class LoraAdapter:
    """The weights of one adapter in float32, by the name of the layer in the model."""

    config: LoraConfig
    dropout: float
    """Probability of dropout on the adapter's input."""
    generator: torch.Generator
    """Draws the first weights and the dropout. Its state belongs to a checkpoint."""
    lora_A: dict[str, nn.Parameter] = field(default_factory=dict)
    """Matrices A by layer, `[rank, in_features]` each."""
    lora_B: dict[str, nn.Parameter] = field(default_factory=dict)
    """Matrices B by layer, `[out_features, rank]` each."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """List all weights, A and B of each layer in turn."""
        return [factors[name] for name in self.lora_A for factors in (self.lora_A, self.lora_B)]

    @torch.no_grad()
    def round_to(self, dtype: torch.dtype) -> None:
        """Round the weights to what they become when saved in `dtype`."""
        for parameter in self.parameters:
            parameter.copy_(parameter.to(dtype))


def init_adapter(model: Any, config: LoraConfig, dropout: float, seed: int) -> LoraAdapter:
    """Draw a new adapter's weights as PEFT does: A Kaiming uniform with a = sqrt(5), B zero.

    The new adapter changes no output, since B is zero.

    Args:
        model: The base model.
        config: Rank, alpha and layers.
        dropout: Probability of dropout on the adapter's input, from 0 to below 1.
        seed: Seed of the adapter's own generator.
    """
    device = next(model.parameters()).device
    adapter = LoraAdapter(config, dropout, torch.Generator(device).manual_seed(seed))
    for name, layer in linear_layers(model, config.target_modules):
        lora_A = torch.empty(config.rank, layer.in_features, device=device)
        nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5), generator=adapter.generator)
        adapter.lora_A[name] = nn.Parameter(lora_A)
        adapter.lora_B[name] = nn.Parameter(torch.zeros(layer.out_features, config.rank, device=device))
    return adapter


def linear_layers(model: Any, target_modules: Collection[str]) -> list[tuple[str, nn.Linear]]:
    """List the layers of `text_linear_layers`, by full name, whose last name part is in `target_modules`."""
    return [(name, layer) for name, layer in text_linear_layers(model) if name.rpartition(".")[2] in target_modules]


def text_linear_layers(model: Any) -> list[tuple[str, nn.Linear]]:
    """List the linear layers of the part of a model that reads text, by full name in the model.

    A multimodal model may have layers of the same last names in its image or audio encoder, where vLLM serves no
    adapter.

    Args:
        model: A transformers causal language model.
    """
    try:
        inside = set(find_body(model).modules())
    except ValueError:
        inside = set(model.modules())
    return [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear) and module in inside
    ]


class LoraModelView:
    """The base model with adapters on it. It shares the base model's weights and does not change it.

    Call `route` before each forward pass. Then `hidden_states` and `logits` compute the pass; `model` can be used like
    the base model. Only the adapters' own dropout is ever on: the base model computes as it is served.
    """

    def __init__(self, base: Any, adapters: Sequence[LoraAdapter], path: ForwardPath = PLAIN) -> None:
        """Build the view.

        Args:
            base: A transformers causal language model.
            adapters: The adapters; a `TokenSpan` names one by its index here.
            path: How passes are computed.

        Raises:
            ValueError: The model has no such attention.
        """
        self.model: Any = copy_modules(base)
        self.path = path
        self.model.set_attn_implementation(ATTENTION_NAME if path.attention == "blocks" else path.attention)
        self._spans: list[TokenSpan] = []
        self._enabled = True
        self._layers: list[LoraLinear] = []
        target_modules = sorted({name for adapter in adapters for name in adapter.config.target_modules})
        for name, layer in linear_layers(base, target_modules):
            parent, _, last = name.rpartition(".")
            self._layers.append(LoraLinear(layer, name, adapters, self._spans))
            setattr(self.model.get_submodule(parent), last, self._layers[-1])
        self._tail = ModelTail(self.model) if path.logits == "tail" else None
        self.set_training(False)

    def set_training(self, training: bool) -> None:
        """Switch the adapters' dropout on or off."""
        for layer in self._layers:
            # `train` would reach the layer of the base model, which other views share.
            layer.training = training

    def hidden_states(
        self, ids: Tensor, *, mask: Tensor | None, position_ids: Tensor | None, **attention: Any
    ) -> Tensor:
        """Run the part of the model in front of `logits`, each token through its own adapter.

        Args:
            ids: `[rows, width]` token ids.
            mask: `[rows, 1, width, width]`, true where the query (third axis) attends to the key; None is causal.
            position_ids: `[rows, width]`; None counts up from 0.
            attention: Further arguments of the attention.

        Returns:
            `[rows, width, features]`, in the form that `logits` takes.
        """
        arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False} | attention
        if position_ids is not None:
            arguments["position_ids"] = position_ids
        if mask is not None:
            arguments["attention_mask"] = self._additive(mask) if self.path.attention == "eager" else mask
        if self.path.logits == "forward":
            logits: Tensor = self.model(**arguments).logits
            return logits
        output = find_body(self.model)(**arguments)
        if self._tail is not None:
            self._tail.imitate(output)
        states: Tensor = output[0]
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Compute the logits `[n, vocabulary]` of hidden states `[n, features]`."""
        if self.path.logits == "forward":
            return states
        if self._tail is not None:
            return self._tail.logits(states)
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits

    def _additive(self, mask: Tensor) -> Tensor:
        """Return a mask that is added to the scores: the model's own code takes no other."""
        dtype = self.model.dtype
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)

    def route(self, spans: Sequence[TokenSpan]) -> None:
        """Choose the adapter of each token of the next pass. Tokens in no span go through the base model alone."""
        self._spans[:] = spans if self._enabled else ()

    @contextmanager
    def disable_adapters(self) -> Iterator[None]:
        """Within the context, all passes go through the base model alone, whatever `route` is given."""
        self._enabled = False
        try:
            yield
        finally:
            self._enabled = True


class LoraLinear(nn.Module):
    """A linear layer with the adapters' parts: `x W^T + b + scaling * dropout(x) A^T B^T` for each adapter's tokens."""

    def __init__(
        self, layer: nn.Linear, name: str, adapters: Sequence[LoraAdapter], spans: Sequence[TokenSpan]
    ) -> None:
        """Wrap a layer of the base model.

        Args:
            layer: The layer of the base model.
            name: Its full name in the base model.
            adapters: All adapters of the view. One without this layer is skipped.
            spans: The view's routing, read in each pass.
        """
        super().__init__()
        self.layer = layer
        self._name = name
        self._adapters = adapters
        self._spans = spans

    def forward(self, states: Tensor) -> Tensor:
        """Map hidden states `[..., in_features]` to `[..., out_features]`."""
        routed = [(span, self._adapters[span.adapter]) for span in self._spans]
        routed = [(span, adapter) for span, adapter in routed if self._name in adapter.lora_A]
        if not routed:
            base_output: Tensor = self.layer(states)
            return base_output
        factors = [part[self._name] for _, adapter in routed for part in (adapter.lora_A, adapter.lora_B)]
        flat = states.flatten(0, -2)
        masks = [self._dropout_mask(flat, span, adapter) for span, adapter in routed]
        pieces = [(span, adapter.config.scaling, mask) for (span, adapter), mask in zip(routed, masks, strict=True)]
        output: Tensor = _LoraLinearFunction.apply(flat, self.layer.weight, self.layer.bias, pieces, *factors)  # type: ignore[no-untyped-call]
        return output.view(*states.shape[:-1], -1)

    def _dropout_mask(self, flat: Tensor, span: TokenSpan, adapter: LoraAdapter) -> Tensor | None:
        """Draw the factors `[span tokens, in_features]` of the adapter's input; None without dropout."""
        if not (self.training and adapter.dropout):
            return None
        mask = torch.empty((span.stop - span.start, flat.shape[1]), device=flat.device)
        mask.bernoulli_(1 - adapter.dropout, generator=adapter.generator)
        return mask.div_(1 - adapter.dropout).to(flat.dtype)


class _LoraLinearFunction(Function):
    """Compute the layer in the base model's dtype, with products summed in float32. Gradients of A and B are float32.

    Unlike PEFT's layer it casts only A and B, never the hidden states, and adds in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        pieces: Sequence[tuple[TokenSpan, float, Tensor | None]],
        *factors: Tensor,
    ) -> Tensor:
        output = functional.linear(states, weight, bias)
        ctx.factors = [factor.to(states.dtype) for factor in factors]
        ctx.pieces, ctx.projections = pieces, []
        for i, (span, scaling, mask) in enumerate(pieces):
            lora_A, lora_B = ctx.factors[2 * i : 2 * i + 2]
            inputs = states[span.start : span.stop]
            projected = torch.mm(inputs if mask is None else inputs * mask, lora_A.t()).mul_(scaling)
            output[span.start : span.stop].addmm_(projected, lora_B.t())
            ctx.projections.append(projected)
        ctx.save_for_backward(states, weight)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        (grad_output,) = gradients
        grad_states = torch.mm(grad_output, weight) if ctx.needs_input_grad[0] else None
        grad_factors: list[Tensor] = []
        for i, (span, scaling, mask) in enumerate(ctx.pieces):
            lora_A, lora_B = ctx.factors[2 * i : 2 * i + 2]
            grad_piece, inputs = grad_output[span.start : span.stop], states[span.start : span.stop]
            grad_projected = torch.mm(grad_piece, lora_B).mul_(scaling)
            grad_factors.append(torch.mm(grad_projected.t(), inputs if mask is None else inputs * mask).float())
            grad_factors.append(torch.mm(grad_piece.t(), ctx.projections[i]).float())
            if grad_states is not None and mask is None:
                grad_states[span.start : span.stop].addmm_(grad_projected, lora_A)
            elif grad_states is not None and mask is not None:
                grad_states[span.start : span.stop].addcmul_(torch.mm(grad_projected, lora_A), mask)
        return grad_states, None, None, None, *grad_factors
