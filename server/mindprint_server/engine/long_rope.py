"""LongRoPE: rotary embeddings with a set of factors for short texts, and another one for long texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TYPES = ("longrope", "su")
"""Names of LongRoPE in a model's configuration; `su` is an older one."""


def check_long_rope(folder: Path, max_model_len: int) -> None:
    """Refuse a model with LongRoPE whose engine would compute other log-probabilities than the trainer.

    Above the length of its first training vLLM takes the long factors for all texts, transformers for long texts only
    (vLLM 0.32, `Phi3LongRoPEScaledRotaryEmbedding`; transformers 5.19, `longrope_frequency_update`).

    Args:
        folder: The model.
        max_model_len: Longest sequence of the engine in tokens.

    Raises:
        RuntimeError: `max_model_len` is above that length.
    """
    path = folder / "config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    original = find_original_length(config)
    if original is not None and max_model_len > original:
        raise RuntimeError(
            f"max_model_len {max_model_len} is above {original}, up to which vLLM and transformers compute "
            f"{config.get('model_type', 'the model')} with the same LongRoPE factors: set it to {original} at most"
        )


def find_original_length(config: Mapping[str, Any]) -> int | None:
    """Return the number of tokens up to which LongRoPE takes its short factors; None if the model has no LongRoPE.

    Args:
        config: The content of config.json.
    """
    return min(_original_lengths(config), default=None)


def _original_lengths(config: Mapping[str, Any]) -> Iterator[int]:
    for name, part in config.items():
        if not isinstance(part, Mapping):
            continue
        if name not in ("rope_scaling", "rope_parameters"):
            yield from _original_lengths(part)
            continue
        # Some models have parameters for each type of layer.
        for rope in (part, *(inner for inner in part.values() if isinstance(inner, Mapping))):
            length = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
            if (rope.get("rope_type") in TYPES or rope.get("type") in TYPES) and isinstance(length, int):
                yield length
