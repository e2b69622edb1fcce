"""LoRA on linear layers, for the adapters of several users at once over one frozen base.

PEFT's layers hold one active adapter for the whole batch and are put into the model itself. Here each token of a pass
names its adapter, and the base model is never changed: a `LoraModelView` has module objects of its own around the
base's weights. So several training runs may use one base at the same time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional


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


def init_adapter(model: nn.Module, config: LoraConfig, dropout: float, seed: int) -> LoraAdapter:
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


def linear_layers(model: nn.Module, target_modules: Sequence[str]) -> list[tuple[str, nn.Linear]]:
    """List the linear layers, by full name, whose last name part is in `target_modules`."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in target_modules
    ]


class LoraModelView:
    """The base model with adapters on it. It shares the base model's weights and does not change it.

    Call `route` before each forward pass. `model` is then used like the base model.
    """

    def __init__(self, base: Any, adapters: Sequence[LoraAdapter], attention: str | None = None) -> None:
        """Build the view.

        Args:
            base: A transformers causal language model.
            adapters: The adapters; a `TokenSpan` names one by its index here.
            attention: Name of a registered attention implementation; None keeps the base model's.
        """
        weights = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        self.model: Any = copy.deepcopy(base, weights)
        if attention is not None:
            self.model.set_attn_implementation(attention)
        self._spans: list[TokenSpan] = []
        self._enabled = True
        target_modules = sorted({name for adapter in adapters for name in adapter.config.target_modules})
        for name, layer in linear_layers(base, target_modules):
            parent, _, last = name.rpartition(".")
            setattr(self.model.get_submodule(parent), last, LoraLinear(layer, name, adapters, self._spans))

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
