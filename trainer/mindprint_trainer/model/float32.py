"""Computes a model of lower precision in float32, with the weights of one layer at a time in memory twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def computed_in_float32(model: nn.Module) -> Iterator[None]:
    """Within the context, the model and copies that are made of it compute in float32.

    Weights are the same before and after. Each layer's weights are cast when the layer is called, and released behind
    it. So a large model needs no memory for a second copy of itself: only of what lies outside of its layers, such as
    its embeddings.

    Args:
        model: A model whose layers lie in `nn.ModuleList`s. Layers may share weights. It must not run in two threads.
    """
    layers = list(_outermost_layers(model))
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    others = _Cast([parameter for parameter in model.parameters() if id(parameter) not in inside])
    handles: list[Any] = []
    others.enter()
    try:
        for layer in layers:
            cast = _Cast(list(layer.parameters()))
            # A copy of the model has copies of these hooks, and the same weights.
            handles.append(layer.register_forward_pre_hook(cast.enter))
            handles.append(layer.register_forward_hook(cast.leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        others.leave()


def _outermost_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of each `nn.ModuleList` that lies in no other."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _outermost_layers(child)


class _Cast:
    """Casts weights to float32, and puts them back. Its methods are also hooks of a module."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._saved: list[tuple[nn.Parameter, Tensor]] = []

    def enter(self, *_: Any) -> None:
        with torch.inference_mode(mode=False):
            for parameter in self._parameters:
                if parameter.is_floating_point() and parameter.dtype != torch.float32:
                    self._saved.append((parameter, parameter.data))
                    parameter.data = parameter.data.float()

    def leave(self, *_: Any) -> None:
        with torch.inference_mode(mode=False):
            while self._saved:
                parameter, data = self._saved.pop()
                parameter.data = data
