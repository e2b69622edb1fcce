"""The base model: loaded once, never changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from mindprint_trainer.errors import TrainerError
from mindprint_trainer.settings import Settings

BF16_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU capabilities as torch names them. Without one, bfloat16 is emulated and slower than float32."""


@dataclass(frozen=True)
class Base:
    model: Any
    """A transformers causal language model; weights rounded to `served`, held in the dtype that is computed in."""
    encode_text: Callable[[str], list[int]]
    end_of_turn: int
    digest: str
    served: torch.dtype
    device: torch.device

    @property
    def pass_tokens(self) -> int:
        """A good size of one forward pass."""
        return 1536 if self.device.type == "cpu" else 16_384

    @property
    def masked(self) -> bool:
        """Whether passes go through torch's own attention under a mask, in padded rows. On a CPU trees do without."""
        return self.device.type != "cpu" or not self.takes_trees

    @property
    def takes_trees(self) -> bool:
        """Whether every layer attends to all that the mask allows, so that rows may be prefix trees."""
        config = self.model.config.get_text_config()
        if (layers := getattr(config, "layer_types", None)) is not None:
            return all(layer == "full_attention" for layer in layers)
        return getattr(config, "sliding_window", None) is None


def load_base_model(path: Path, digest: str, settings: Settings) -> Base:
    """Reads the folder `path`. Raises TrainerError in one line when it is no causal language model."""
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(settings.threads or available_cores())
    device = torch.device(resolve_device(settings.device))
    served = getattr(torch, settings.base_dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=served, attn_implementation="sdpa", local_files_only=True
        )
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())[:300]
        raise TrainerError(f"the model in {path} cannot be loaded ({line}): name another with --model") from error
    if tokenizer.eos_token_id is None:
        raise TrainerError(f"the tokenizer in {path} has no end-of-turn token: set eos_token in tokenizer_config.json")
    model.requires_grad_(False).eval()
    # Parameters only: buffers such as rotary frequencies are float32 already and stay so.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device, resolve_compute_dtype(settings.compute_dtype, device))
    return Base(
        model=model.to(device),
        encode_text=lambda text: list(tokenizer.encode(text, add_special_tokens=False)),
        end_of_turn=tokenizer.eos_token_id,
        digest=digest,
        served=served,
        device=device,
    )


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(named: str) -> str:
    """`auto` is the first CUDA device, else the CPU."""
    if named != "auto":
        return named
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_compute_dtype(named: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it."""
    if named != "auto":
        dtype: torch.dtype = getattr(torch, named)
        return dtype
    if device.type == "cpu":
        able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return torch.bfloat16 if any(able.get(name) for name in BF16_CAPABILITIES) else torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float32
    return torch.bfloat16
