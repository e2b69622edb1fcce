"""Judges an upload as a whole: manifest, config and weights, against the lease and the base model that is served.

Nothing is unpickled, and weights are read in pieces. An upload that is refused here ends no lease and leaves no file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mindprint.adapter_config import AdapterConfig
from mindprint.types import Lease, Manifest
from mindprint_server.adapters.manifest_check import check_manifest
from mindprint_server.adapters.peft_config import read_config
from mindprint_server.adapters.weights_file import TensorEntry, check_values, read_entries
from mindprint_server.engine.model_shapes import Shapes
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class ServedModel:
    """The base model, and which adapters the engine takes for it.

    Attributes:
        base_digest: Digest of the base model.
        shapes: Shapes of the weights of the base model's layers, by the names that adapters give them.
        vocab_size: Number of token ids.
        max_model_len: Longest sequence in tokens.
        max_rank: Largest rank of an adapter.
        targets: Names of the modules that an adapter may change.
        ignored_options: Options of PEFT that this release of the engine ignores.
    """

    base_digest: str
    shapes: Shapes
    vocab_size: int
    max_model_len: int
    max_rank: int
    targets: Collection[str]
    ignored_options: Collection[str] = ()


def check_upload(
    lease: Lease, manifest: Manifest, config: bytes, weights: Path, *, served: ServedModel, settings: AdapterSettings
) -> None:
    """Judge an upload. It reads the whole weights: call it in a thread.

    Args:
        lease: The lease under which the version was trained.
        manifest: What the trainer says about the version.
        config: Content of adapter_config.json.
        weights: The uploaded safetensors file.
        served: What is served.
        settings: Bounds of uploads.

    Raises:
        Invalid: Something of the upload cannot be served.
    """
    check_manifest(
        manifest,
        lease,
        base_digest=served.base_digest,
        vocab_size=served.vocab_size,
        max_model_len=served.max_model_len,
    )
    adapter = read_config(
        config,
        max_rank=served.max_rank,
        targets=served.targets,
        settings=settings,
        ignored=served.ignored_options,
    )
    check_weights(weights, adapter, base=served.shapes, settings=settings)
    if sha256(weights) != manifest.weights_sha256:
        raise Invalid("adapter_digest", "the weights are not those of the manifest's weights_sha256: upload again")


def check_weights(path: Path, adapter: AdapterConfig, *, base: Shapes, settings: AdapterSettings) -> None:
    """Judge the weights: the file, the tensors that it holds, and their values.

    Args:
        path: A safetensors file.
        adapter: What adapter_config.json says.
        base: Shapes of the base model's tensors.
        settings: Bounds of uploads.

    Raises:
        Invalid: The file is malformed, a tensor does not fit, a value is not finite or too large, or all are zero.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        entries = read_entries(file, size=size, max_header_bytes=settings.max_weights_header_bytes)
        check_tensors(entries, adapter, base=base)
        zero = check_values(file, entries, max_norm=settings.max_tensor_norm)
    _check_effect(entries, zero)


def list_layers(path: Path, *, settings: AdapterSettings) -> list[str]:
    """List the layers of the base model for which a file has tensors. A malformed file has none.

    Args:
        path: A safetensors file.
        settings: Bounds of uploads.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            entries = read_entries(file, size=size, max_header_bytes=settings.max_weights_header_bytes)
        except Invalid:
            return []
    return sorted({layer for entry in entries if (layer := _parse_name(entry.name)[0])})


def check_tensors(entries: Iterable[TensorEntry], adapter: AdapterConfig, *, base: Shapes) -> None:
    """Check that the tensors are complete LoRA pairs that fit their layers of the base model.

    Args:
        entries: The adapter's tensors.
        adapter: What adapter_config.json says.
        base: Shapes of the base model's tensors.

    Raises:
        Invalid: A tensor does not fit.
    """
    halves: dict[str, set[str]] = {}
    for entry in entries:
        layer, half = _parse_name(entry.name)
        # The base model's layers come first: the patterns of the config are matched against their names alone.
        _check_module(entry.name, layer, half, adapter)
        out_features, in_features = _base_shape(base, layer)
        _check_adapted(entry.name, layer, adapter)
        rank = adapter.rank_of(layer)
        wanted = (rank, in_features) if half == "lora_A" else (out_features, rank)
        if entry.shape != wanted:
            raise Invalid(
                "adapter_shape",
                f"tensor {entry.name[:200]!r} is {list(entry.shape)}, the base and the config's rank need "
                f"{list(wanted)}: train on the served model, and upload both files as PEFT wrote them",
            )
        halves.setdefault(layer, set()).add(half)
    if not halves:
        raise Invalid("adapter_shape", "the weights hold no tensor: upload the file that PEFT wrote")
    for layer, pair in halves.items():
        if len(pair) != 2:
            missing = "lora_B" if "lora_A" in pair else "lora_A"
            raise Invalid(
                "adapter_shape",
                f"layer {layer[:200]!r} has no {missing}: lora_A and lora_B come in pairs, "
                "upload the file that PEFT wrote",
            )


def _check_module(name: str, layer: str, half: str, adapter: AdapterConfig) -> None:
    if half not in ("lora_A", "lora_B"):
        raise Invalid(
            "adapter_targets",
            f"tensor {name[:200]!r} is no LoRA weight of a linear layer: train only "
            f"{sorted(adapter.served)}, and upload both files as PEFT wrote them",
        )
    if not adapter.is_served(layer):
        raise Invalid(
            "adapter_targets",
            f"tensor {name[:200]!r} changes a layer that cannot be served: train only {sorted(adapter.served)}, "
            "or raise target_modules of the server",
        )


def _check_adapted(name: str, layer: str, adapter: AdapterConfig) -> None:
    if not adapter.is_adapted(layer):
        raise Invalid(
            "adapter_targets",
            f"tensor {name[:200]!r} is of a layer that target_modules, exclude_modules and layers_to_transform "
            "leave out: "
            "upload both files as PEFT wrote them",
        )


def _check_effect(entries: Iterable[TensorEntry], zero: Collection[str]) -> None:
    """Check that an adapter changes something: neither A nor B is zero in every layer."""
    layers: dict[str, bool] = {}
    for entry in entries:
        layer, _ = _parse_name(entry.name)
        layers[layer] = layers.get(layer, True) and entry.name not in zero
    if not any(layers.values()):
        raise Invalid(
            "adapter_no_effect",
            "every layer has a lora_A or lora_B of zeros, so the adapter changes nothing: "
            "upload the weights from after the training",
        )


def _parse_name(name: str) -> tuple[str, str]:
    """Return the layer of the base model and `lora_A` or `lora_B`. The half is empty for another name."""
    if not (name.startswith(_PREFIX) and name.endswith(".weight")):
        return "", ""
    layer, _, half = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
    return layer, half


def _base_shape(base: Shapes, layer: str) -> tuple[int, int]:
    weight = base.get(f"{layer}.weight")
    if weight is None or len(weight) != 2:
        raise Invalid(
            "adapter_base_model", f"the base model has no linear layer {layer[:200]!r}: train on the served model"
        )
    out_features, in_features = weight
    return out_features, in_features


def sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
