"""LoRA on linear layers, for the adapters of several users at once over one frozen base.

A `LoraModelView` is a skeleton of the base: module objects of its own around the base's own weights. So nothing is ever
put on the base or taken off it, and trainings may run beside each other.
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
    """The tokens `start:stop` of a pass, laid out flat, belong to the adapter with this number."""

    adapter: int
    start: int
    stop: int


@dataclass(frozen=True)
class LoraConfig:
    """What an adapter is made of; the weights of a rank are added times alpha / rank."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """The last parts of the names of the linear layers."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass
class LoraAdapter:
    """Factors A [rank, in] and B [out, rank] in float32, by the name of the layer in the model."""

    shape: LoraConfig
    dropout: float
    generator: torch.Generator
    """Draws the first weights and the dropout. Its state is part of the training's."""
    down: dict[str, nn.Parameter] = field(default_factory=dict)
    up: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [part[name] for name in self.down for part in (self.down, self.up)]

    @torch.no_grad()
    def round_to(self, dtype: torch.dtype) -> None:
        """Makes the weights what they will be once saved in `dtype`."""
        for parameter in self.parameters:
            parameter.copy_(parameter.to(dtype))


def init_adapter(model: nn.Module, shape: LoraConfig, dropout: float, seed: int) -> LoraAdapter:
    """A random by `seed` as PEFT draws it, B zero: at first the adapter changes nothing."""
    device = next(model.parameters()).device
    adapter = LoraAdapter(shape, dropout, torch.Generator(device).manual_seed(seed))
    for name, layer in linear_layers(model, shape.targets):
        down = torch.empty(shape.rank, layer.in_features, device=device)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=adapter.generator)
        adapter.down[name] = nn.Parameter(down)
        adapter.up[name] = nn.Parameter(torch.zeros(layer.out_features, shape.rank, device=device))
    return adapter


def linear_layers(model: nn.Module, targets: Sequence[str]) -> list[tuple[str, nn.Linear]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    ]


class LoraModelView:
    """The base with adapters on it. `route` says before each pass which tokens go through which adapter."""

    def __init__(self, base: Any, adapters: Sequence[LoraAdapter], attention: str | None = None) -> None:
        weights = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        self.model: Any = copy.deepcopy(base, weights)
        if attention is not None:
            self.model.set_attn_implementation(attention)
        self._spans: list[TokenSpan] = []
        self._on = True
        for name, layer in linear_layers(base, sorted({one for adapter in adapters for one in adapter.shape.targets})):
            parent, _, last = name.rpartition(".")
            setattr(self.model.get_submodule(parent), last, LoraLinear(layer, name, adapters, self._spans))

    def route(self, spans: Sequence[TokenSpan]) -> None:
        """Tokens in none of the spans go through the base alone."""
        self._spans[:] = spans if self._on else ()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, every pass is the base's alone."""
        self._on = False
        try:
            yield
        finally:
            self._on = True


class LoraLinear(nn.Module):
    """x W' + b, plus for the tokens of each adapter that has this layer: dropout(x) A' B' times its scale."""

    def __init__(self, layer: nn.Linear, name: str, adapters: Sequence[LoraAdapter], spans: list[TokenSpan]) -> None:
        super().__init__()
        self.layer = layer
        self._name = name
        self._adapters = adapters
        self._spans = spans

    def forward(self, states: Tensor) -> Tensor:
        mine = [(span, self._adapters[span.adapter]) for span in self._spans]
        mine = [(span, adapter) for span, adapter in mine if self._name in adapter.down]
        if not mine:
            out: Tensor = self.layer(states)
            return out
        factors = [part[self._name] for _, adapter in mine for part in (adapter.down, adapter.up)]
        flat = states.flatten(0, -2)
        masks = [self._mask(flat, span, adapter) for span, adapter in mine]
        pieces = [(span, adapter.shape.scale, mask) for (span, adapter), mask in zip(mine, masks, strict=True)]
        made: Tensor = _LoraLinearFunction.apply(flat, self.layer.weight, self.layer.bias, pieces, *factors)  # type: ignore[no-untyped-call]
        return made.view(*states.shape[:-1], -1)

    def _mask(self, flat: Tensor, span: TokenSpan, adapter: LoraAdapter) -> Tensor | None:
        """What the dropout of an adapter multiplies its input with."""
        if not (self.training and adapter.dropout):
            return None
        kept = torch.empty((span.stop - span.start, flat.shape[1]), device=flat.device)
        kept.bernoulli_(1 - adapter.dropout, generator=adapter.generator)
        return kept.div_(1 - adapter.dropout).to(flat.dtype)


class _LoraLinearFunction(Function):
    """All of it in the base's dtype, whose products are summed in float32; the factors' gradients become float32.

    Apart from PEFT's layer it casts only the small factors, never the states, and adds into what is there.
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
        out = functional.linear(states, weight, bias)
        ctx.rounded = [factor.to(states.dtype) for factor in factors]
        ctx.pieces, ctx.low = pieces, []
        for number, (span, scale, mask) in enumerate(pieces):
            down, up = ctx.rounded[2 * number : 2 * number + 2]
            part = states[span.start : span.stop]
            low = torch.mm(part if mask is None else part * mask, down.t()).mul_(scale)
            out[span.start : span.stop].addmm_(low, up.t())
            ctx.low.append(low)
        ctx.save_for_backward(states, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_states = torch.mm(gradient, weight) if ctx.needs_input_grad[0] else None
        of_factors: list[Tensor] = []
        for number, (span, scale, mask) in enumerate(ctx.pieces):
            down, up = ctx.rounded[2 * number : 2 * number + 2]
            here, part = gradient[span.start : span.stop], states[span.start : span.stop]
            of_low = torch.mm(here, up).mul_(scale)
            of_factors.append(torch.mm(of_low.t(), part if mask is None else part * mask).float())
            of_factors.append(torch.mm(here.t(), ctx.low[number]).float())
            if of_states is not None and mask is None:
                of_states[span.start : span.stop].addmm_(of_low, down)
            elif of_states is not None and mask is not None:
                of_states[span.start : span.stop].addcmul_(torch.mm(of_low, down), mask)
        return of_states, None, None, None, *of_factors
