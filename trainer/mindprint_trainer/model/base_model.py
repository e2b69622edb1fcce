"""Loads the frozen base model."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mindprint.model_tokenizer import load_tokenizer
from mindprint.token_stretches import Token, place_tokens
from mindprint_trainer.errors import CannotTrain, TrainerError
from mindprint_trainer.model.forward_path import ForwardPath, candidate_paths
from mindprint_trainer.model.weights import cast_weights, check_trainable, load_model, one_line
from mindprint_trainer.settings import Settings

BF16_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16")
"""CPU capabilities, by torch's names, with bfloat16 arithmetic. Without one of them, float32 is faster."""


@dataclass(frozen=True)
class Base:
    """The frozen base model with its tokenizer."""

    model: Any
    """A transformers causal language model. Its weights are rounded to `serving_dtype` and held in the dtype that is
    computed in."""
    tokenize_text: Callable[[str], list[Token]]
    """Tokenizes text, without adding special tokens."""
    eos_token_id: int | None
    """Token id of the tokenizer's `eos_token`; None if it has none."""
    digest: str
    """The digest of the model's files, as the server computes it."""
    serving_dtype: torch.dtype
    """Dtype in which the engine holds weights."""
    device: torch.device
    path: ForwardPath
    """How passes are computed. A loaded model has its fastest path; `choose_forward_path` finds the right one."""

    @property
    def end_of_turn(self) -> int:
        """Token id that ends every answer, where a lease names none.

        Raises:
            CannotTrain: The tokenizer has no `eos_token`.
        """
        if self.eos_token_id is None:
            raise CannotTrain("the tokenizer has no end-of-turn token: set eos_token in tokenizer_config.json")
        return self.eos_token_id

    def encode_text(self, text: str) -> list[int]:
        """Encode text to token ids, without adding special tokens."""
        return [token.id for token in self.tokenize_text(text)]

    @property
    def default_pass_tokens(self) -> int:
        """Return the tokens of one forward pass that suit the device."""
        return 1536 if self.device.type == "cpu" else 16_384


def load_base_model(path: Path, digest: str, settings: Settings) -> Base:
    """Load model and tokenizer from a folder, and set torch's number of threads.

    Args:
        path: Folder with a transformers causal language model, or with one inside a model that also reads images.
        digest: Digest of its files, kept in the result.
        settings: Device, dtypes and threads.

    Raises:
        TrainerError: The folder holds no model that can be trained.
    """
    torch.set_num_threads(settings.threads or available_cores())
    device = torch.device(resolve_device(settings.device))
    serving_dtype = getattr(torch, settings.base_dtype)
    check_trainable(path)
    try:
        tokenizer = load_tokenizer(path)
    except Exception as error:  # each tokenizer's code has errors of its own
        raise TrainerError(
            f"the tokenizer in {path} cannot be loaded ({one_line(error)}): name another model with --model"
        ) from error
    if not tokenizer.is_fast:
        raise TrainerError(f"the tokenizer in {path} cannot say where tokens begin: save it as tokenizer.json")
    model = load_model(path, serving_dtype)
    return Base(
        model=cast_weights(model, device, resolve_compute_dtype(settings.compute_dtype, device)),
        tokenize_text=partial(tokenize_with, tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        digest=digest,
        serving_dtype=serving_dtype,
        device=device,
        path=candidate_paths(model.config, device.type)[0],
    )


def tokenize_with(tokenizer: Any, text: str) -> list[Token]:
    """Tokenize text without adding special tokens.

    Args:
        tokenizer: A fast tokenizer of the transformers library.
        text: The text.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return place_tokens(encoded["input_ids"], encoded["offset_mapping"])


def available_cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(name: str) -> str:
    """Replace `auto` by the first CUDA device, or the CPU without one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """Replace `auto` by bfloat16 where the hardware multiplies it, else by float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return torch.bfloat16 if any(capabilities.get(name) for name in BF16_CAPABILITIES) else torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float32
    return torch.bfloat16
