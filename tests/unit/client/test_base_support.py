from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindprint.base_support import (
    KnownClasses,
    Level,
    Loader,
    choose_loader,
    decide_base_support,
    find_quantization,
    read_model_config,
)

CLASSES = KnownClasses(
    {"llama": "LlamaForCausalLM", "both": "TextOnly", "gemma3": "Gemma"},
    {"both": "WithImages", "mistral3": ("Mistral3", "Other"), "gemma3": "Gemma"},
)
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("quantization", "level", "method"),
    [
        (FP8, "trained", "fp8"),
        (FP8 | {"weight_block_size": None}, "trained", "fp8"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "served", "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "served", "modelopt"),
        ({"quant_method": "compressed-tensors"}, "served", "compressed-tensors"),
        ({"config_groups": {}, "format": "pack-quantized"}, "served", "compressed-tensors"),
        ({"quant_method": "AWQ"}, "served", "awq"),
        ({"load_in_4bit": True}, "refused", "bitsandbytes"),
        ({"quant_method": "quanto"}, "refused", "quanto"),
        ({"bits": 4}, "refused", None),
    ],
)
def test_weights_decide_what_can_be_done(quantization: dict[str, Any], level: Level, method: str | None) -> None:
    for config in ({"quantization_config": quantization}, {"text_config": {"quantization_config": quantization}}):
        support = decide_base_support({"model_type": "llama"} | config, CLASSES)
        assert (support.level, support.quantization) == (level, method)
        assert bool(support.reason) is (level != "trained")
        assert support.is_dequantized is (level == "trained")
        assert level == "trained" or ("unquantized model" in support.reason and "\n" not in support.reason)


def test_methods_of_the_installed_engine_are_served() -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "own"}}
    assert decide_base_support(config, CLASSES, {"own"}).level == "served"


@pytest.mark.parametrize(
    ("model_type", "architecture", "loader"),
    [
        ("llama", "LlamaForCausalLM", "AutoModelForCausalLM"),
        ("llama", "LlamaForSomethingElse", "AutoModelForCausalLM"),
        ("both", "TextOnly", "AutoModelForCausalLM"),
        ("both", "WithImages", "AutoModelForImageTextToText"),
        ("gemma3", "Gemma", "AutoModelForCausalLM"),
        ("mistral3", "Other", "AutoModelForImageTextToText"),
        ("t5", "T5ForConditionalGeneration", None),
    ],
)
def test_architecture_chooses_the_class(model_type: str, architecture: str, loader: Loader | None) -> None:
    config = {"model_type": model_type, "architectures": [architecture]}
    assert choose_loader(config, CLASSES) == loader
    support = decide_base_support(config, CLASSES)
    assert (support.level, support.loader) == ("trained" if loader else "served", loader)


@pytest.mark.parametrize(
    "name",
    ["Qwen3ForSequenceClassification", "BertForMaskedLM", "Qwen2ForProcessRewardModel", "LlamaForTokenClassification"],
)
def test_model_that_writes_no_text_is_refused(name: str) -> None:
    support = decide_base_support({"model_type": "llama", "architectures": [name]}, CLASSES)
    assert (support.level, support.reason) == ("refused", f"{name} writes no text: name a causal language model")


@pytest.mark.parametrize("kind", ["causal", "image"])
def test_model_that_transformers_writes_text_with_is_not_taken_for_another(kind: str) -> None:
    """All names that transformers has for them."""
    for named in getattr(KnownClasses.installed(), kind).values():
        for name in [named] if isinstance(named, str) else named:
            assert not decide_base_support({"model_type": "llama", "architectures": [name]}, CLASSES).reason


def test_a_model_without_a_class_says_why() -> None:
    own = decide_base_support({"model_type": "own", "auto_map": {"AutoConfig": "config.Own"}}, CLASSES)
    assert own.reason == (
        "the trainer has no text model for model_type own (its code is in its folder, which is not run): "
        "name another model to train"
    )


def test_modelopts_own_file_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert find_quantization(read_model_config(tmp_path)) is None
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    support = decide_base_support(read_model_config(tmp_path), CLASSES)
    assert (support.level, support.quantization) == ("served", "modelopt")
