"""Loads a model's weights with transformers, and refuses a folder whose weights it would not read as they are meant."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from mindprint.base_support import CONFIG, BaseSupport, read_base_support
from mindprint_trainer.errors import TrainerError

UNUSED = re.compile(r"(.*\.)?(inv_freq|[kv]_scale|kv_scale)")
"""Tensors of a checkpoint that change nothing here: buffers that are computed, and scales of a float8 KV cache."""
COMPUTED_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Dtypes of weights that may be cast to another one. Other weights, such as float8, are numbers without their scale."""
SHOWN_NAMES = 3
"""Names of weights in a message."""
SHOWN_CHARS = 300
"""Characters of a library's message."""


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """Load a frozen model on the CPU. Weights that are quantized in float8 are dequantized.

    Args:
        folder: A model of transformers: a causal language model, or one inside a model that also reads images.
        dtype: The dtype that weights are rounded to.

    Raises:
        TrainerError: It cannot be trained, or its weights are not those that its configuration describes.
    """
    transformers_logging.disable_progress_bar()
    support = check_trainable(folder)
    try:
        model, report = _load(folder, dtype, support)
    except Exception as error:  # transformers, torch, safetensors and each model's code have errors of their own
        raise TrainerError(
            f"the model in {folder} cannot be loaded ({one_line(error)}): name another with --model"
        ) from error
    if problem := find_problem(report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"]):
        raise TrainerError(f"the trainer cannot use the model in {folder}: {problem}: name another with --model")
    if wrong := sorted({str(one.dtype) for one in model.parameters() if one.dtype not in COMPUTED_DTYPES}):
        raise TrainerError(
            f"the trainer cannot use the model in {folder}: it has weights of {', '.join(wrong)}: "
            "serve and train the unquantized model that it was made from"
        )
    return model.requires_grad_(False).eval()


def check_trainable(folder: Path) -> BaseSupport:
    """Read the configuration of a model, and check that it can be trained.

    Args:
        folder: The model.

    Raises:
        TrainerError: It cannot, or its configuration cannot be read.
    """
    try:
        support = read_base_support(folder)
    except (OSError, ValueError) as error:
        raise TrainerError(
            f"{CONFIG} of the model in {folder} cannot be read ({one_line(error)}): name another with --model"
        ) from error
    if support.level != "trained":
        raise TrainerError(f"the trainer cannot use the model in {folder}: {support.reason}")
    return support


def cast_weights(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a model to a device, with its weights in another dtype.

    Args:
        model: What `load_model` returned.
        device: The device that computes.
        dtype: The dtype that is computed in.
    """
    # Only parameters are converted: buffers such as rotary frequencies are float32 and stay float32.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device, dtype)
    return model.to(device)


def find_problem(missing: Collection[str], unexpected: Collection[str], mismatched: Collection[Any]) -> str | None:
    """Say in one line which weights a model lacks, or has too many; None if they are right.

    Args:
        missing: Weights of the model that are in no file: transformers draws them at random.
        unexpected: Weights in a file that the model does not have: transformers leaves them out.
        mismatched: Weights of another shape, each with its name first.
    """
    unread = [name for name in unexpected if not UNUSED.fullmatch(name)]
    misshapen = [one if isinstance(one, str) else str(one[0]) for one in mismatched]
    problems = {
        "its files lack": missing,
        "its files have other shapes of": misshapen,
        "its files have weights that transformers would not use:": unread,
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            return f"{problem} {', '.join(sorted(names)[:SHOWN_NAMES])}{more}"
    return None


def one_line(error: BaseException) -> str:
    """Return the message of a library in one line, cut after `SHOWN_CHARS` characters."""
    return " ".join(str(error).split())[:SHOWN_CHARS]


def _load(folder: Path, dtype: torch.dtype, support: BaseSupport) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {}
    if support.is_dequantized:
        # Without it, a GPU computes in float8, and so do layers whose weights are cast without their scales.
        options["quantization_config"] = transformers.FineGrainedFP8Config(dequantize=True)
    loader = getattr(transformers, str(support.loader))
    model, report = loader.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        # Shapes are reported by name then, and refused by `find_problem`.
        ignore_mismatched_sizes=True,
        **options,
    )
    return model, report
