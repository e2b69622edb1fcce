"""What of a model can get adapters, read from its files before vLLM loads them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from safetensors import safe_open

log = structlog.get_logger(__name__)

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Configuration fields that count the experts of a layer."""
_NO_ADAPTERS = ("embed", "lm_head", "norm")
"""Parts of the names of matrices that are no linear layers, or the head."""


def check_lora_support(folder: Path, target_modules: Sequence[str], *, on_cpu: bool) -> None:
    """Refuse a model whose adapters cannot be served, and log which of `target_modules` it lacks.

    Args:
        folder: The model.
        target_modules: The layers that adapters may change.
        on_cpu: Whether the engine runs on a CPU.

    Raises:
        RuntimeError: It is a mixture of experts and the engine runs on a CPU, or it has none of the layers.
    """
    path = folder / "config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    if on_cpu and has_experts(config):
        raise RuntimeError(
            f"{config.get('model_type', 'the model')} is a mixture of experts, and vLLM serves adapters on one only on "
            "a GPU: name another model, or serve it on a GPU"
        )
    layers = linear_layers(_read_shapes(folder))
    missing = [name for name in target_modules if name not in layers]
    if layers and len(missing) == len(target_modules):
        raise RuntimeError(
            f"target_modules: the model has none of {', '.join(missing)}: name some of {', '.join(sorted(layers))}"
        )
    if layers and missing:
        log.warning("the model lacks layers of target_modules", lacks=sorted(missing), has=sorted(layers))


def has_experts(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is that of a mixture of experts.

    Args:
        config: The content of config.json.
    """
    counts = [config.get(name) for name in EXPERT_COUNTS]
    parts = [part for part in config.values() if isinstance(part, Mapping)]
    return any(isinstance(count, int) and count > 1 for count in counts) or any(map(has_experts, parts))


def linear_layers(shapes: Mapping[str, Collection[int]]) -> set[str]:
    """Return the last parts of the names of a model's linear layers.

    Args:
        shapes: Shapes of the model's tensors by name.
    """
    return {
        name.split(".")[-2]
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) == 2
        and not any(part in name.split(".")[-2] for part in _NO_ADAPTERS)
    }


def _read_shapes(folder: Path) -> dict[str, Collection[int]]:
    return {name: shape for path in sorted(folder.glob("*.safetensors")) for name, shape in _read_header(path)}


def _read_header(path: Path) -> Iterator[tuple[str, Collection[int]]]:
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_slice(name).get_shape()
