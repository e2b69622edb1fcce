"""Validates uploaded adapter files against the base model and the engine. Reads headers only; unpickles nothing."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mindprint_server.exceptions import Invalid

MAX_HEADER_BYTES = 100 * 2**20
_PREFIX = "base_model.model."
Shapes = dict[str, tuple[int, ...]]
"""Shape of each tensor, by name."""


def read_config(text: bytes, *, max_rank: int, targets: Iterable[str]) -> dict[str, Any]:
    """Parse adapter_config.json and check that the engine can load such an adapter.

    Args:
        text: Content of the file.
        max_rank: Maximum rank.
        targets: Names of the modules that may be adapted.

    Raises:
        Invalid: The adapter cannot be served.
    """
    try:
        config = json.loads(text)
    except ValueError:
        raise Invalid("adapter_config", "adapter_config.json is not JSON: upload the file that PEFT wrote") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise Invalid("adapter_config", "adapter_config.json is not of a PEFT LoRA: train with peft_type LORA")
    rank = config.get("r")
    if not isinstance(rank, int) or not 1 <= rank <= max_rank:
        raise Invalid(
            "adapter_rank", f"rank {rank} is outside 1 to {max_rank}: train with a lower r, or raise max_lora_rank"
        )
    named = config.get("target_modules")
    unknown = sorted(set(named) - set(targets)) if isinstance(named, list) and named else ["(none listed)"]
    if unknown:
        raise Invalid("adapter_targets", f"target modules {unknown} cannot be served: train only {sorted(targets)}")
    for option in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication", "lora_bias"):
        if config.get(option):
            raise Invalid("adapter_config", f"the engine cannot serve {option}: train without it")
    return config


def read_shapes(path: Path) -> Shapes:
    """Read the tensor shapes of a safetensors file from its header, and check the length of the file.

    Raises:
        Invalid: The file is a pickle (adapter_pickle) or incomplete (adapter_truncated).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start[:1] == b"\x80" or start[:2] == b"PK":
            raise Invalid("adapter_pickle", "the weights are a pickle, which may hold code: upload safetensors")
        if len(start) < 8:
            raise Invalid("adapter_truncated", "the weights end before their header: upload the whole file")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise Invalid("adapter_truncated", "the weights are not a complete safetensors file: upload the whole file")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise Invalid(
                "adapter_truncated", "the header of the weights cannot be read: upload the file again"
            ) from None
    if size != 8 + length + end:
        raise Invalid(
            "adapter_truncated",
            f"the weights have {size} bytes, their header says {8 + length + end}: upload the whole file",
        )
    return shapes


def read_base_shapes(folder: Path) -> Shapes:
    """Read the tensor shapes of the base model from the headers of its safetensors files."""
    shapes: Shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        shapes |= read_shapes(file)
    return shapes


def check_tensors(adapter: Shapes, base: Mapping[str, tuple[int, ...]], *, rank: int, targets: Iterable[str]) -> None:
    """Check that the tensors are complete LoRA pairs that fit their layers of the base model.

    Args:
        adapter: Shapes of the adapter's tensors.
        base: Shapes of the base model's tensors.
        rank: Rank of the adapter.
        targets: Names of the modules that may be adapted.

    Raises:
        Invalid: A tensor does not fit.
    """
    allowed = frozenset(targets)
    halves: dict[str, set[str]] = {}
    for name, shape in adapter.items():
        layer, _, half = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B") or layer.rpartition(".")[2] not in allowed:
            raise Invalid(
                "adapter_targets",
                f"tensor {name[:200]!r} is no LoRA weight of a target module that can be served: "
                f"allowed are {sorted(allowed)}",
            )
        weight = base.get(f"{layer}.weight")
        if weight is None:
            raise Invalid(
                "adapter_base_model", f"the base model has no layer {layer[:200]!r}: train on the served model"
            )
        out_features, in_features = weight
        wanted = (rank, in_features) if half == "lora_A" else (out_features, rank)
        if shape != wanted:
            raise Invalid(
                "adapter_shape",
                f"tensor {name[:200]!r} is {list(shape)}, the base needs {list(wanted)}: train on the served model",
            )
        halves.setdefault(layer, set()).add(half)
    if not halves or any(len(pair) != 2 for pair in halves.values()):
        raise Invalid("adapter_shape", "lora_A and lora_B do not come in pairs: upload the file that PEFT wrote")


def sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
