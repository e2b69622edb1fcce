"""A LoRA adapter on the base model: put on fresh, rounded to what is saved, written, taken off without a trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from mindprint.types import LoraLimits
from mindprint_trainer.base import Base
from mindprint_trainer.errors import CannotTrain
from mindprint_trainer.settings import Settings

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def targets(model: nn.Module, wanted: Sequence[str] | None, limits: LoraLimits) -> list[str]:
    """The model's linear layers that are wanted, by the last part of their names; by default all that can be served.

    Raises CannotTrain when a wanted one cannot be served, or the model has none of them.
    """
    if refused := sorted(set(wanted or ()) - set(limits.target_modules)):
        raise CannotTrain(
            f"the engine takes no adapter on {', '.join(refused)}: leave them out of MINDPRINT_TRAIN_TARGET_MODULES"
        )
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = sorted(linear & set(wanted or limits.target_modules))
    if not found:
        raise CannotTrain(
            f"the model has none of the layers {', '.join(sorted(wanted or limits.target_modules))}: "
            f"name some of {', '.join(sorted(linear))} in MINDPRINT_TRAIN_TARGET_MODULES and in the server's settings"
        )
    return found


@contextmanager
def attached(base: Base, settings: Settings, limits: LoraLimits, seed: int) -> Iterator[PeftModel]:
    """The base with a new adapter: A random by `seed`, B zero, both float32. Afterwards the base is as it was before.

    Torch's random state inside the block depends on `seed` alone; outside it goes on as if nothing had been.
    """
    config = LoraConfig(
        r=min(settings.rank, limits.max_rank),
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets(base.model, settings.target_modules, limits),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):
        torch.manual_seed(seed)
        adapted = get_peft_model(base.model, config)
        try:
            yield adapted
        finally:
            adapted.unload()


def trainable(adapted: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in adapted.parameters() if parameter.requires_grad]


@torch.no_grad()
def round_to(adapted: nn.Module, dtype: torch.dtype) -> None:
    """Makes the adapter's weights what they will be once saved in `dtype`."""
    for parameter in trainable(adapted):
        parameter.copy_(parameter.to(dtype))


def save(adapted: PeftModel, folder: Path, base_digest: str, dtype: torch.dtype) -> str:
    """Writes PEFT's two files into the new folder `folder`; returns the hex sha256 of the weights.

    The base is named by its digest, for a path would tell about this machine.
    """
    folder.mkdir(parents=True)
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    adapted.peft_config["default"].save_pretrained(str(folder))
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    config |= {
        "base_model_name_or_path": base_digest,
        "inference_mode": True,
        "target_modules": sorted(config["target_modules"]),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    with (folder / WEIGHTS).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
