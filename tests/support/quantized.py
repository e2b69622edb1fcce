"""Folders of quantized models, made of `tiny.make_model`'s by the arithmetic of their formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

BLOCK = 32
"""Side of the blocks of weights that share a scale. It divides the sides of all layers of the tiny model."""


def make_fp8(base: Path, folder: Path, *, per_tensor: bool = False, **changes: Any) -> tuple[Path, Path]:
    """Quantize the linear layers in float8, as DeepSeek and Qwen publish it (blocks), or as Mistral does (per tensor).

    Args:
        base: The model.
        folder: Where two models are written.
        per_tensor: Whether a weight has one scale.
        changes: Other fields of `quantization_config`.

    Returns:
        The quantized model, and one with the same values in float32.
    """
    import torch
    from safetensors.torch import load_file, save_file

    quantized, plain = folder / "fp8", folder / "plain"
    for copy in (quantized, plain):
        shutil.copytree(base, copy)
    tensors = load_file(base / "model.safetensors")
    values = dict(tensors)
    for name in [name for name in tensors if "_proj.weight" in name]:
        weight = tensors[name].float()
        side = max(weight.shape) if per_tensor else BLOCK
        rows, columns = (-(-size // side) for size in weight.shape)
        scales = torch.zeros(rows, columns)
        for i in range(rows):
            for k in range(columns):
                scales[i, k] = weight[i * side : (i + 1) * side, k * side : (k + 1) * side].abs().max() / 448
        full = scales.repeat_interleave(side, 0).repeat_interleave(side, 1)[: weight.shape[0], : weight.shape[1]]
        eight = (weight / full).to(torch.float8_e4m3fn)
        tensors[name] = eight
        tensors[f"{name}_scale_inv"] = scales.reshape(()) if per_tensor else scales
        if per_tensor:
            tensors[name.replace(".weight", ".activation_scale")] = torch.tensor(1.0)
        values[name] = eight.float() * full
    save_file(tensors, quantized / "model.safetensors", metadata={"format": "pt"})
    save_file(values, plain / "model.safetensors", metadata={"format": "pt"})
    config = {
        "quant_method": "fp8",
        "activation_scheme": "static" if per_tensor else "dynamic",
        "weight_block_size": None if per_tensor else [BLOCK, BLOCK],
        "modules_to_not_convert": ["lm_head"],
    }
    change_config(quantized, quantization_config=config | changes)
    return quantized, plain


def change_config(folder: Path, **fields: Any) -> Path:
    """Change fields of a model's config.json; None removes a field."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder
