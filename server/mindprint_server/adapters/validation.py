"""Judges an upload as a whole: manifest, config and weights, against the lease and the base model that is served.

Nothing is unpickled, and weights are read in pieces. An upload that is refused here ends no lease and leaves no file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from mindprint.types import Lease, Manifest
from mindprint_server.adapters.manifest_check import check_manifest
from mindprint_server.adapters.peft_config import AdapterConfig, read_config
from mindprint_server.adapters.weights_file import TensorEntry, check_values, read_entries
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings

_PREFIX = "base_model.model."
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor, by name."""


@dataclass(frozen=True)
class ServedModel:
    """The base model, and which adapters the engine takes for it.

    Attributes:
        base_digest: Digest of the base model.
        shapes: Shapes of the base model's tensors.
        vocab_size: Number of token ids.
        max_model_len: Longest sequence in tokens.
        max_rank: Largest rank of an adapter.
        targets: Names of the modules that an adapter may change.
    """

    base_digest: str
    shapes: Shapes
    vocab_size: int
    max_model_len: int
    max_rank: int
    targets: Collection[str]


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
    adapter = read_config(config, max_rank=served.max_rank, targets=served.targets, settings=settings)
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
        Invalid: The file is malformed, a tensor does not fit, or a value is not finite or too large.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        entries = read_entries(file, size=size, max_header_bytes=settings.max_weights_header_bytes)
        check_tensors(entries, adapter, base=base)
        check_values(file, entries, max_norm=settings.max_tensor_norm)


def read_base_shapes(folder: Path) -> Shapes:
    """Read the tensor shapes of the base model from the headers of its safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


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
        if half not in ("lora_A", "lora_B") or layer.rpartition(".")[2] not in adapter.targets:
            raise Invalid(
                "adapter_targets",
                f"tensor {entry.name[:200]!r} is no LoRA weight of the config's target_modules: "
                "upload both files as PEFT wrote them",
            )
        wanted = _wanted_shape(base, layer, half, adapter.rank)
        if entry.shape != wanted:
            raise Invalid(
                "adapter_shape",
                f"tensor {entry.name[:200]!r} is {list(entry.shape)}, the base needs {list(wanted)}: "
                "train on the served model",
            )
        halves.setdefault(layer, set()).add(half)
    if not halves or any(len(pair) != 2 for pair in halves.values()):
        raise Invalid("adapter_shape", "lora_A and lora_B do not come in pairs: upload the file that PEFT wrote")


def _parse_name(name: str) -> tuple[str, str]:
    """Return the layer of the base model and `lora_A` or `lora_B`. The half is empty for another name."""
    if not (name.startswith(_PREFIX) and name.endswith(".weight")):
        return "", ""
    layer, _, half = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
    return layer, half


def _wanted_shape(base: Shapes, layer: str, half: str, rank: int) -> tuple[int, int]:
    weight = base.get(f"{layer}.weight")
    if weight is None or len(weight) != 2:
        raise Invalid(
            "adapter_base_model", f"the base model has no linear layer {layer[:200]!r}: train on the served model"
        )
    out_features, in_features = weight
    return (rank, in_features) if half == "lora_A" else (out_features, rank)


def sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
