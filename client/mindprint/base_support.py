"""What can be done with a base model, decided from its configuration before anything is loaded.

Server, trainer and `mindprint doctor` ask this module, so that all of them say the same (decision 044).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Level = Literal["trained", "served", "refused"]
"""Trained: the engine serves it and the trainer trains it. Served: the trainer cannot train it. Refused: neither."""
Loader = Literal["AutoModelForCausalLM", "AutoModelForImageTextToText"]
"""The class of transformers that loads a model."""
SERVED_METHODS = frozenset(
    {
        "auto-round",
        "auto_awq",
        "auto_gptq",
        "awq",
        "awq_marlin",
        "compressed-tensors",
        "deepseek_v4_fp8",
        "experts_int8",
        "fbgemm_fp8",
        "fp8",
        "fp_quant",
        "gpt_oss_mxfp4",
        "gptq",
        "gptq_marlin",
        "humming",
        "inc",
        "modelopt",
        "modelopt_fp4",
        "modelopt_mixed",
        "modelopt_mxfp8",
        "moe_wna16",
        "mxfp4",
        "mxfp8",
        "quark",
        "torchao",
    }
)
"""Values of `quant_method` that vLLM 0.32 reads. The server adds those of the installed release."""
WRITES_NO_TEXT = re.compile(r".*For(\w*Classification|MaskedLM|\w*RewardModel|QuestionAnswering|Retrieval|Ranking)")
"""Architectures that score or fill in texts. vLLM would load them, and then refuse to generate."""
CONFIG, MODELOPT_CONFIG = "config.json", "hf_quant_config.json"
UNQUANTIZED = (
    "serve and train the unquantized model that it was made from (on a GPU, `--engine-arg quantization=fp8` quantizes "
    "that one while it is loaded)"
)
"""What to do with a quantized model that cannot be trained. An adapter must be trained on the model that is served."""


@dataclass(frozen=True)
class BaseSupport:
    """What can be done with a base model.

    Attributes:
        level: Whether it is served and trained.
        reason: Why it is not trained or served, and what to do, in one line; empty for `trained`.
        quantization: The `quant_method` of its weights; None: they are not quantized.
        loader: The class of transformers that loads it; None if there is none.
    """

    level: Level
    reason: str = ""
    quantization: str | None = None
    loader: Loader | None = None

    @property
    def is_dequantized(self) -> bool:
        """Return whether the trainer computes with dequantized weights."""
        return self.level == "trained" and self.quantization is not None


@dataclass(frozen=True)
class KnownClasses:
    """Classes of the installed transformers, by model type."""

    causal: Mapping[str, Any]
    image: Mapping[str, Any]

    @classmethod
    def installed(cls) -> KnownClasses:
        """Read the lists of the installed transformers."""
        from transformers.models.auto import modeling_auto

        return cls(
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        )


def read_base_support(folder: Path, served_methods: Collection[str] = ()) -> BaseSupport:
    """Read a model's configuration, and decide what can be done with it.

    Args:
        folder: The model.
        served_methods: Further values of `quant_method` that the engine reads.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file holds no JSON object.
    """
    return decide_base_support(read_model_config(folder), KnownClasses.installed(), SERVED_METHODS | {*served_methods})


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read config.json, with the quantization that ModelOpt writes into a file of its own.

    Args:
        folder: The model.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file holds no JSON object.
    """
    config = _read_object(folder / CONFIG)
    if (folder / MODELOPT_CONFIG).is_file() and find_quantization(config) is None:
        config["quantization_config"] = {"quant_method": "modelopt"} | _read_object(folder / MODELOPT_CONFIG)
    return config


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value


def decide_base_support(
    config: Mapping[str, Any], classes: KnownClasses, served_methods: Collection[str] = SERVED_METHODS
) -> BaseSupport:
    """Decide what can be done with a model.

    Args:
        config: The content of config.json.
        classes: What transformers can load.
        served_methods: Values of `quant_method` that the engine reads.
    """
    if wrong := next(filter(WRITES_NO_TEXT.fullmatch, map(str, config.get("architectures") or ())), None):
        return BaseSupport("refused", f"{wrong[:80]} writes no text: name a causal language model")
    loader = choose_loader(config, classes)
    quantization = find_quantization(config)
    method = None if quantization is None else read_method(quantization)
    if quantization is not None and method is None:
        reason = "the quantization of its weights has no quant_method: name the unquantized model"
        return BaseSupport("refused", reason, loader=loader)
    if method is not None and method not in served_methods:
        reason = f"its weights are quantized with {method[:40]}, which vLLM does not read: name the unquantized model"
        return BaseSupport("refused", reason, method, loader)
    if quantization is not None and not can_dequantize(quantization):
        reason = f"the trainer cannot compute with weights that are quantized with {method}: {UNQUANTIZED}"
        return BaseSupport("served", reason, method, loader)
    if loader is None:
        name = str(config.get("model_type"))[:40]
        has_code = "its code is in its folder, which is not run" if config.get("auto_map") else "transformers has none"
        reason = f"the trainer has no text model for model_type {name} ({has_code}): name another model to train"
        return BaseSupport("served", reason, method)
    return BaseSupport("trained", "", method, loader)


def find_quantization(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return how a model's weights are quantized, also those of the text model in it; None: they are not.

    Args:
        config: The content of config.json.
    """
    for part in _parts(config):
        for name in ("quantization_config", "compression_config"):
            if isinstance(found := part.get(name), Mapping) and found:
                return found
    return None


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for name, part in config.items():
        if isinstance(part, Mapping) and name.endswith("_config"):
            yield from _parts(part)


def read_method(quantization: Mapping[str, Any]) -> str | None:
    """Return the `quant_method` of a quantization; None if it has none.

    Args:
        quantization: What `find_quantization` returned.
    """
    if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
        return "bitsandbytes"
    method = quantization.get("quant_method")
    if not isinstance(method, str) or not method:
        # The name is missing in older files of this format.
        return "compressed-tensors" if "config_groups" in quantization else None
    return method.lower().replace("compressed_tensors", "compressed-tensors")


def can_dequantize(quantization: Mapping[str, Any]) -> bool:
    """Return whether transformers turns the weights back into those of an unquantized model, on any device.

    Args:
        quantization: What `find_quantization` returned.
    """
    # Files of other tools under the same name lack this field, and call their scales in another way.
    return read_method(quantization) == "fp8" and "weight_block_size" in quantization


def choose_loader(config: Mapping[str, Any], classes: KnownClasses) -> Loader | None:
    """Choose the class of transformers that loads the model as vLLM serves it; None if there is none.

    vLLM serves the first of `architectures`. For some model types transformers also has a class for the text model
    alone. Its layers have other names, by which vLLM would not find them.

    Args:
        config: The content of config.json.
        classes: What transformers can load.
    """
    model_type, wanted = str(config.get("model_type")), set(config.get("architectures") or ())
    offered: dict[Loader, Any] = {
        "AutoModelForCausalLM": classes.causal.get(model_type),
        "AutoModelForImageTextToText": classes.image.get(model_type),
    }
    found: dict[Loader, set[str]] = {
        loader: {names} if isinstance(names, str) else set(names) for loader, names in offered.items() if names
    }
    return next((loader for loader, names in found.items() if names & wanted), next(iter(found), None))
