"""Shapes of a model's tensors, from the headers of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor, by name."""


def read_base_shapes(folder: Path) -> Shapes:
    """Read the tensor shapes of the base model from the headers of its safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes
