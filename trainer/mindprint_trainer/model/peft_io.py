"""Reads and writes adapters in PEFT's file format, and chooses the layers that get an adapter."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mindprint.types import LoraLimits, Start
from mindprint.types.keys import VersionRef
from mindprint_trainer.errors import CannotTrain, TrainerError
from mindprint_trainer.model.lora import LoraAdapter, LoraConfig, init_adapter, text_linear_layers
from mindprint_trainer.settings import Settings

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix that PEFT puts before the name of each layer."""


def resolve_target_modules(model: Any, wanted: Sequence[str] | None, limits: LoraLimits) -> tuple[str, ...]:
    """Choose the model's linear layers that get an adapter, by the last parts of their names.

    Args:
        model: The base model.
        wanted: The layers that were asked for; None takes all that the engine can serve.
        limits: What the engine can serve.

    Raises:
        CannotTrain: A wanted layer cannot be served or is not in the model, or the model has none of the layers.
    """
    check_target_modules(wanted or (), limits)
    names = adaptable_names(model)
    if not names:
        raise CannotTrain("the model has no linear layers that can get an adapter: name another model with --model")
    has = f"it has {', '.join(sorted(names))}"
    if missing := sorted(set(wanted or ()) - names):
        raise CannotTrain(f"the model has no layers {', '.join(missing)}, {has}: change MINDPRINT_TRAIN_TARGET_MODULES")
    chosen = tuple(sorted(names & set(wanted or limits.target_modules)))
    if not chosen:
        raise CannotTrain(
            f"the model has none of the layers {', '.join(sorted(limits.target_modules))}, {has}: "
            "name some of these in the server's target_modules"
        )
    return chosen


def check_target_modules(wanted: Iterable[str], limits: LoraLimits) -> None:
    """Check that the engine can serve adapters of these layers.

    Args:
        wanted: Last parts of the layers' names.
        limits: What the engine can serve.

    Raises:
        CannotTrain: It cannot.
    """
    if refused := sorted(set(wanted) - set(limits.target_modules)):
        raise CannotTrain(
            f"the engine takes no adapter on {', '.join(refused)}: leave them out of MINDPRINT_TRAIN_TARGET_MODULES"
        )


def adaptable_names(model: Any) -> set[str]:
    """Return the last parts of the names of all linear layers that read text, without the head.

    Args:
        model: The base model.
    """
    head = model.get_output_embeddings()
    return {name.rpartition(".")[2] for name, layer in text_linear_layers(model) if layer is not head}


@dataclass(frozen=True)
class ParentAdapter:
    """A version whose weights a training run starts from."""

    start: Start
    config: LoraConfig
    tensors: Mapping[str, Tensor]
    """Weights by PEFT's names."""

    @property
    def name(self) -> str:
        """Return the version's name, `user/ann@3`."""
        return VersionRef.of(self.start.adapter, self.start.version)


def read_parent(folder: Path, start: Start) -> ParentAdapter:
    """Read a version from PEFT's two files.

    Raises:
        TrainerError: The weights have another digest than `start` says, or the files are no plain LoRA adapter.
    """
    name = VersionRef.of(start.adapter, start.version)
    try:
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        if f"sha256:{digest}" != start.digest:
            raise TrainerError(f"the weights of {name} are sha256:{digest[:12]}, not {start.digest[:19]}")
        saved = json.loads((folder / CONFIG).read_text())
        rank, alpha = int(saved["r"]), float(saved["lora_alpha"])
        if saved.get("use_rslora"):
            # Rank-stabilized LoRA multiplies with alpha / sqrt(rank), the trainer with alpha / rank.
            alpha *= math.sqrt(rank)
        config = LoraConfig(rank, alpha, tuple(sorted(saved["target_modules"])))
        return ParentAdapter(start, config, load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"the files of {name} cannot be read ({' '.join(str(error).split())[:200]})") from error


def create_initial_adapter(
    model: nn.Module, parent: ParentAdapter | None, settings: Settings, limits: LoraLimits, seed: int
) -> LoraAdapter:
    """Create the adapter that a training run begins with.

    Args:
        model: The base model.
        parent: The version whose weights, rank, alpha and layers the adapter takes. None draws new weights.
        settings: Rank, alpha and layers of a new adapter, and the dropout.
        limits: What the engine can serve. A new adapter's rank is lowered to fit.
        seed: Seed of the adapter's generator.

    Raises:
        CannotTrain: The engine cannot serve such an adapter, or the parent does not fit the model.
    """
    if parent is None:
        rank = min(settings.rank, limits.max_rank)
        config = LoraConfig(rank, settings.alpha, resolve_target_modules(model, settings.target_modules, limits))
        return init_adapter(model, config, settings.dropout, seed)
    if parent.config.rank > limits.max_rank:
        raise CannotTrain(f"{parent.name} has rank {parent.config.rank}, the engine takes {limits.max_rank} at most")
    check_target_modules(parent.config.target_modules, limits)
    adapter = init_adapter(model, parent.config, settings.dropout, seed)
    ours = named_parameters(adapter)
    if ours.keys() != parent.tensors.keys() or any(
        ours[name].shape != tensor.shape for name, tensor in parent.tensors.items()
    ):
        raise CannotTrain(f"{parent.name} does not fit the base model: its layers have other names or sizes")
    with torch.no_grad():
        for name, tensor in parent.tensors.items():
            ours[name].copy_(tensor)
    return adapter


def named_parameters(adapter: LoraAdapter) -> dict[str, nn.Parameter]:
    """Return the weights by PEFT's names, A and B of each layer in turn."""
    return {
        f"{PREFIX}{layer}.lora_{letter}.weight": factors[layer]
        for layer in adapter.lora_A
        for letter, factors in (("A", adapter.lora_A), ("B", adapter.lora_B))
    }


@dataclass(frozen=True)
class AdapterFiles:
    """The two files of PEFT's adapter folder, in memory: an upload needs no disk."""

    config: bytes
    weights: bytes

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the weights in hex."""
        return hashlib.sha256(self.weights).hexdigest()

    def write(self, folder: Path) -> None:
        """Write both files into `folder`, which is created."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_bytes(self.config)
        (folder / WEIGHTS).write_bytes(self.weights)


def serialize(adapter: LoraAdapter, base_digest: str, dtype: torch.dtype) -> AdapterFiles:
    """Build PEFT's two files of an adapter.

    Args:
        adapter: The trained adapter.
        base_digest: Digest of the base model, written as its name. A path would reveal something about this machine.
        dtype: Dtype of the saved weights.
    """
    parameters = named_parameters(adapter)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in parameters.items()}
    config: dict[str, Any] = peft.LoraConfig(
        r=adapter.config.rank,
        lora_alpha=adapter.config.alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.config.target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_digest,
        inference_mode=True,
    ).to_dict()
    config["target_modules"] = list(adapter.config.target_modules)
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n"
    return AdapterFiles(text.encode(), save(tensors, metadata={"format": "pt"}))
