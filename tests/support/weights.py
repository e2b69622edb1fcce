"""Adapter files of a one-layer base model, byte by byte, so that a test can break any part of them."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
RANK, WIDTH = 4, 8
NAMES = (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight")
SHAPES: dict[str, tuple[int, int]] = {NAMES[0]: (RANK, WIDTH), NAMES[1]: (WIDTH, RANK)}
BASE: dict[str, tuple[int, ...]] = {"model.layers.0.self_attn.q_proj.weight": (WIDTH, WIDTH)}
SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


def header_of(dtype: str = "F32") -> dict[str, Any]:
    """The header of an adapter of one layer."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in SHAPES.items():
        end = begin + shape[0] * shape[1] * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    return header


def data_of(dtype: str = "F32", values: Any = 0.01) -> bytes:
    """The data of both tensors: `values` is broadcast over all their elements."""
    count = sum(rows * columns for rows, columns in SHAPES.values())
    array = np.broadcast_to(np.asarray(values, dtype=np.float64), count)
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype(f"<f{SIZES[dtype]}").tobytes()


def weights_file(header: Any = None, data: bytes | None = None) -> bytes:
    """A safetensors file. A header that is bytes is written as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header_of() if header is None else header).encode()
    return struct.pack("<Q", len(text)) + text + (data_of() if data is None else data)


def adapter_config(**changes: Any) -> bytes:
    """adapter_config.json of such an adapter."""
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"], **changes}
    return json.dumps(config).encode()


def nested(depth: int) -> bytes:
    """A list in a list in a list."""
    return b"[" * depth + b"]" * depth
