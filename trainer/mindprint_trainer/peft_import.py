"""Measures a PEFT folder of another tool with PEFT itself, so that the server can check what its engine makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from peft.utils import load_peft_weights
from safetensors.torch import save
from torch import Tensor

from mindprint.adapter_config import WrongAdapterConfig, judge_config
from mindprint.general_questions import QUESTIONS
from mindprint.model_files import MissingModel, model_digest, resolve
from mindprint.model_tokenizer import load_tokenizer
from mindprint.types import LoraLimits, Manifest, ParityItem, ServerInfo
from mindprint_trainer.errors import BaseMismatch, TrainerError
from mindprint_trainer.model.base_model import resolve_compute_dtype, resolve_device
from mindprint_trainer.model.peft_io import CONFIG, WEIGHTS, AdapterFiles
from mindprint_trainer.model.weights import cast_weights, check_trainable, load_model, one_line
from mindprint_trainer.parity import evidence_nats
from mindprint_trainer.settings import Settings

SAVED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes that the server takes. Others, such as float8, are saved as float32, which holds their values exactly."""
PICKLED_WEIGHTS = "adapter_model.bin"
"""What PEFT wrote before 0.7, or without safe_serialization. It is loaded with torch's weights_only."""


@dataclass(frozen=True)
class MeasuredAdapter:
    """An adapter's files as they are uploaded, and its manifest."""

    manifest: Manifest
    files: AdapterFiles


def measure_adapter(
    folder: Path, key: str, info: ServerInfo, settings: Settings, prompts: Sequence[str] = ()
) -> MeasuredAdapter:
    """Read a PEFT folder, and measure parity items with PEFT.

    Args:
        folder: The folder that `save_pretrained` wrote.
        key: The adapter that it becomes a version of.
        info: What the server runs.
        settings: Base model, device, dtypes, number and length of the items.
        prompts: Questions to measure the adapter on; none takes general ones. Those that it was trained for show more
            of it.

    Raises:
        TrainerError: A file is missing or malformed, the engine or PEFT cannot load it, or the base model is another
            one.
    """
    check_config(folder, info.limits)
    base = find_base(info, settings)
    check_trainable(base)
    files = read_files(folder)
    encode, model = load_adapted(folder, base, settings)
    pool = [encode(text) for text in prompts or [question.query for question in QUESTIONS[: settings.parity_pool]]]
    items = [measure_item(model, ids[-settings.parity_prompt_tokens :], settings.parity_target_tokens) for ids in pool]
    manifest = Manifest(
        adapter=key,
        base_digest=info.base_digest,
        weights_sha256=files.digest,
        trace_ids=[],
        samples={},
        settings={},
        losses={},
        tokens=0,
        seconds=0.0,
        trainer=f"peft {peft.__version__} (import)",
        parity_items=sorted(items, key=evidence_nats, reverse=True)[: settings.parity_items],
    )
    return MeasuredAdapter(manifest, files)


def check_config(folder: Path, limits: LoraLimits) -> None:
    """Check what the server would refuse, before anything is loaded.

    Args:
        folder: The PEFT folder.
        limits: Bounds of the server. It has some more, and checks them at the upload.

    Raises:
        TrainerError: adapter_config.json is missing or malformed, or the engine cannot serve what it says.
    """
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} is no JSON object")
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    try:
        judge_config(config, max_rank=limits.max_rank, targets=limits.target_modules)
    except WrongAdapterConfig as error:
        raise TrainerError(str(error)) from error


def read_files(folder: Path) -> AdapterFiles:
    """Read the two files of a PEFT folder. Weights of another format or dtype are converted.

    Raises:
        TrainerError: A file is missing or malformed.
    """
    try:
        config = (folder / CONFIG).read_bytes()
        if not any((folder / name).is_file() for name in (WEIGHTS, PICKLED_WEIGHTS)):
            raise FileNotFoundError(f"{WEIGHTS} is missing")
        tensors: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu")
        is_kept = (folder / WEIGHTS).is_file() and all(tensor.dtype in SAVED_DTYPES for tensor in tensors.values())
        return AdapterFiles(config, (folder / WEIGHTS).read_bytes() if is_kept else save(to_saved_dtypes(tensors)))
    except Exception as error:  # torch, safetensors and the hub each have errors of their own
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> TrainerError:
    return TrainerError(
        f"{folder} cannot be read as a PEFT folder ({one_line(error)}): name the folder that save_pretrained wrote"
    )


def to_saved_dtypes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in dtypes that the server takes, with the same values."""
    return {
        name: (tensor if tensor.dtype in SAVED_DTYPES else tensor.to(torch.float32)).contiguous()
        for name, tensor in tensors.items()
    }


def find_base(info: ServerInfo, settings: Settings) -> Path:
    """Return the folder of the server's base model on this machine.

    Raises:
        TrainerError: It is not here, or another model.
    """
    try:
        path = resolve(settings.model or info.model_path)
    except MissingModel as error:
        raise TrainerError(f"the server's base model is not here ({error}); name its folder with --model") from error
    if (digest := model_digest(path)) != info.base_digest:
        raise BaseMismatch(
            f"{path} has digest {digest[:23]}…, the server serves {info.base_digest[:23]}…: "
            "name the folder of the served model with --model"
        )
    return path


def load_adapted(folder: Path, base: Path, settings: Settings) -> tuple[Callable[[str], list[int]], Any]:
    """Load the base model with the adapter on it, as PEFT does.

    Args:
        folder: The PEFT folder.
        base: The base model's folder.
        settings: Device and dtypes.

    Returns:
        A function that renders a question with the model's chat template and encodes it, and PEFT's model.

    Raises:
        TrainerError: One of them cannot be loaded.
    """
    device = torch.device(resolve_device(settings.device))
    model = load_model(base, getattr(torch, settings.base_dtype))
    try:
        tokenizer = load_tokenizer(base)
        cast_weights(model, device, resolve_compute_dtype(settings.compute_dtype, device))
        adapted = peft.PeftModel.from_pretrained(model, folder).eval()
    except Exception as error:  # torch, transformers and peft each have errors of their own
        raise TrainerError(
            f"PEFT cannot load {folder} on the served model ({one_line(error)}): train on the served model"
        ) from error

    def encode(text: str) -> list[int]:
        if tokenizer.chat_template is not None:
            messages = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer.encode(text, add_special_tokens=False))

    return encode, adapted


@torch.inference_mode()
def measure_item(model: Any, prompt_ids: Sequence[int], count: int) -> ParityItem:
    """Let the adapted model write the likeliest tokens, and measure their log-probabilities with and without it.

    Likely tokens are measured more exactly than others.

    Args:
        model: PEFT's model.
        prompt_ids: Token ids of the prompt, at least one.
        count: Number of target tokens.
    """
    ids, logprobs = list(prompt_ids), []
    for _ in range(count):
        row = _logprobs(model, ids)[-1]
        token = int(row.argmax())
        logprobs.append(float(row[token]))
        ids.append(token)
    with model.disable_adapter():
        rows = _logprobs(model, ids)[len(prompt_ids) - 1 : -1]
    targets = ids[len(prompt_ids) :]
    return ParityItem(
        prompt_ids=list(prompt_ids),
        target_ids=targets,
        logprobs=logprobs,
        base_logprobs=[float(row[token]) for row, token in zip(rows, targets, strict=True)],
    )


def _logprobs(model: Any, ids: Sequence[int]) -> Tensor:
    """Return log p of each next token, `[tokens, vocabulary]`."""
    device = next(model.parameters()).device
    logits: Tensor = model(torch.tensor([list(ids)], device=device)).logits[0]
    return logits.float().log_softmax(-1)
