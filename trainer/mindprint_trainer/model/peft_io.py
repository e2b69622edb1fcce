"""Adapters in PEFT's form: which layers can have one, the two files of one, and a parent read back from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mindprint.types import LoraLimits, Start
from mindprint_trainer.errors import CannotTrain, TrainerError
from mindprint_trainer.model.lora import LoraAdapter, LoraConfig, init_adapter
from mindprint_trainer.settings import Settings

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


def resolve_target_modules(model: nn.Module, wanted: Sequence[str] | None, limits: LoraLimits) -> tuple[str, ...]:
    """The model's linear layers that are wanted, by the last part of their names; by default all that can be served.

    Raises CannotTrain when a wanted one cannot be served, or the model has none of them.
    """
    if refused := sorted(set(wanted or ()) - set(limits.target_modules)):
        raise CannotTrain(
            f"the engine takes no adapter on {', '.join(refused)}: leave them out of MINDPRINT_TRAIN_TARGET_MODULES"
        )
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = tuple(sorted(linear & set(wanted or limits.target_modules)))
    if not found:
        raise CannotTrain(
            f"the model has none of the layers {', '.join(sorted(wanted or limits.target_modules))}: "
            f"name some of {', '.join(sorted(linear))} in MINDPRINT_TRAIN_TARGET_MODULES and in the server's settings"
        )
    return found


@dataclass(frozen=True)
class ParentAdapter:
    """A version whose weights a training begins with."""

    start: Start
    shape: LoraConfig
    tensors: Mapping[str, Tensor]
    """By PEFT's names."""

    @property
    def name(self) -> str:
        return f"{self.start.adapter}@{self.start.version}"


def read_parent(folder: Path, start: Start) -> ParentAdapter:
    """Reads PEFT's two files. Raises TrainerError when they are not what `start` says, or no plain LoRA adapter."""
    name = f"{start.adapter}@{start.version}"
    try:
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if f"sha256:{digest}" != start.digest:
            raise TrainerError(f"the weights of {name} are sha256:{digest[:12]}, not {start.digest[:19]}")
        config = json.loads((folder / CONFIG).read_text())
        shape = LoraConfig(int(config["r"]), float(config["lora_alpha"]), tuple(sorted(config["target_modules"])))
        return ParentAdapter(start, shape, load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"the files of {name} cannot be read ({' '.join(str(error).split())[:200]})") from error


def create_initial_adapter(
    model: nn.Module, parent: ParentAdapter | None, settings: Settings, limits: LoraLimits, seed: int
) -> LoraAdapter:
    """A fresh adapter, or one with the parent's weights: then the parent's rank, alpha and layers win.

    Raises CannotTrain when the engine or the model does not take such an adapter.
    """
    if parent is None:
        rank = min(settings.rank, limits.max_rank)
        shape = LoraConfig(rank, settings.alpha, resolve_target_modules(model, settings.target_modules, limits))
        return init_adapter(model, shape, settings.dropout, seed)
    if parent.shape.rank > limits.max_rank:
        raise CannotTrain(f"{parent.name} has rank {parent.shape.rank}, the engine takes {limits.max_rank} at most")
    resolve_target_modules(model, parent.shape.targets, limits)
    adapter = init_adapter(model, parent.shape, settings.dropout, seed)
    held = named_parameters(adapter)
    if held.keys() != parent.tensors.keys() or any(held[n].shape != t.shape for n, t in parent.tensors.items()):
        raise CannotTrain(f"{parent.name} does not fit the base model: its layers have other names or sizes")
    with torch.no_grad():
        for name, tensor in parent.tensors.items():
            held[name].copy_(tensor)
    return adapter


def named_parameters(adapter: LoraAdapter) -> dict[str, nn.Parameter]:
    """The factors by PEFT's names."""
    return {
        f"{PREFIX}{name}.lora_{letter}.weight": part[name]
        for name in adapter.down
        for letter, part in (("A", adapter.down), ("B", adapter.up))
    }


@dataclass(frozen=True)
class AdapterFiles:
    """What PEFT calls an adapter's folder, in memory: no disk is needed between training and upload."""

    config: bytes
    weights: bytes

    @property
    def digest(self) -> str:
        """Hex sha256 of the weights."""
        return hashlib.sha256(self.weights).hexdigest()

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_bytes(self.config)
        (folder / WEIGHTS).write_bytes(self.weights)


def serialize(adapter: LoraAdapter, base_digest: str, dtype: torch.dtype) -> AdapterFiles:
    """The base is named by its digest, for a path would tell about this machine."""
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in named_parameters(adapter).items()
    }
    config: dict[str, Any] = peft.LoraConfig(
        r=adapter.shape.rank,
        lora_alpha=adapter.shape.alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.shape.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_digest,
        inference_mode=True,
    ).to_dict()
    config["target_modules"] = list(adapter.shape.targets)
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n"
    return AdapterFiles(text.encode(), save(tensors, metadata={"format": "pt"}))
