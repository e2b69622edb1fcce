from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mindprint_trainer.errors import TrainerError
from mindprint_trainer.forward_check import choose_forward_path
from mindprint_trainer.model.base_model import load_base_model
from mindprint_trainer.model.lora import LoraConfig, init_adapter
from mindprint_trainer.model.peft_io import named_parameters
from mindprint_trainer.model.weights import find_problem, load_model
from mindprint_trainer.settings import Settings
from quantized import change_config, make_fp8
from wrappers import make_wrapper

IDS = [7, 42, 99, 100, 3, 11]


def logprobs(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.tensor([IDS])).logits[0].float().log_softmax(-1)
    return found


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers keeps float8 weights only where it sees a GPU that multiplies them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_float8_weights_are_dequantized_with_their_scales(
    per_tensor: bool, base_dtype: str, model_path: Path, settings: Settings, tmp_path: Path
) -> None:
    quantized, plain = make_fp8(model_path, tmp_path, per_tensor=per_tensor)
    settings = settings.model_copy(update={"device": "cpu", "base_dtype": base_dtype})
    found = load_base_model(quantized, "d", settings).model
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}
    assert type(found.model.layers[0].mlp.up_proj) is torch.nn.Linear
    right = load_base_model(plain, "d", settings).model
    assert (logprobs(found) - logprobs(right)).abs().max().item() < 1e-3


def test_float8_weights_of_other_names_are_refused(model_path: Path, tmp_path: Path) -> None:
    quantized, _ = make_fp8(model_path, tmp_path)
    tensors = load_file(quantized / "model.safetensors")
    renamed = {name.replace("weight_scale_inv", "weight_scale"): tensor for name, tensor in tensors.items()}
    save_file(renamed, quantized / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainerError, match=r"would not use: model\.layers\.0.*weight_scale.* and 11 more"):
        load_model(quantized, torch.bfloat16)
    for config in ({"quant_method": "modelopt", "quant_algo": "FP8"}, {"quant_method": "fp8"}):
        change_config(quantized, quantization_config=config)
        with pytest.raises(TrainerError, match=f"quantized with {config['quant_method']}: serve and train the unquan"):
            load_model(quantized, torch.bfloat16)


def test_float8_weights_without_a_configuration_are_refused(model_path: Path, tmp_path: Path) -> None:
    quantized, _ = make_fp8(model_path, tmp_path)
    change_config(quantized, quantization_config=None)
    with pytest.raises(TrainerError, match=r"weights that transformers would not use: .*weight_scale_inv"):
        load_model(quantized, torch.bfloat16)


@pytest.mark.parametrize(
    "method", ["awq", "gptq", "bitsandbytes", "fbgemm_fp8", "compressed-tensors", "quanto", "no such method"]
)
def test_a_quantization_without_its_package_is_refused_in_one_line(
    method: str, model_path: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = change_config(
        shutil.copytree(model_path, tmp_path / "model"), quantization_config={"quant_method": method}
    )
    with pytest.raises(TrainerError, match=f"quantized with {method}.* unquantized model") as caught:
        load_base_model(folder, "d", settings)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) - len(str(folder)) < 300


def test_weights_that_are_missing_or_too_many_are_named(model_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_path, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    lost = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainerError, match=r"its files lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder, torch.bfloat16)
    tensors |= {"model.layers.1.mlp.up_proj.weight": lost, "model.layers.1.mlp.up_proj.extra": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainerError, match=r"would not use: model\.layers\.1\.mlp\.up_proj\.extra"):
        load_model(folder, torch.bfloat16)
    del tensors["model.layers.1.mlp.up_proj.extra"]
    tensors["model.layers.1.mlp.up_proj.weight"] = lost[:8].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainerError, match=r"other shapes of model\.layers\.1\.mlp\.up_proj\.weight: name another"):
        load_model(folder, torch.bfloat16)


def test_a_tied_head_may_be_missing(model_path: Path, tmp_path: Path) -> None:
    folder = change_config(shutil.copytree(model_path, tmp_path / "model"), tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_model(folder, torch.bfloat16)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_find_problem_names_three_weights_at_most() -> None:
    assert find_problem([], ["model.layers.0.rotary_emb.inv_freq", "model.layers.0.self_attn.k_scale"], []) is None
    assert find_problem("dcba", [], []) == "its files lack a, b, c and 1 more"
    assert find_problem([], [], [("a", (1,), (2,))]) == "its files have other shapes of a"


@pytest.mark.parametrize("model_type", ["mistral3", "qwen2_5_vl", "gemma3"])
def test_text_model_in_a_wrapper_is_trained_as_transformers_computes_it(
    model_type: str, model_path: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = make_wrapper(model_path, tmp_path / "model", model_type)
    base = choose_forward_path(load_base_model(folder, "d", settings), ("q_proj", "down_proj"), 1e-3)
    assert base.model.config.model_type == model_type
    adapter = init_adapter(base.model, LoraConfig(4, 4, ("q_proj", "down_proj")), 0.0, 0)
    names = {name.partition(".layers.")[0] for name in named_parameters(adapter)}
    assert names == {"base_model.model.model.language_model"}


def test_a_model_that_transformers_does_not_know_is_refused(
    model_path: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_path, tmp_path / "model")
    code = {"AutoConfig": "config.Config", "AutoModelForCausalLM": "model.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": code}))
    with pytest.raises(TrainerError, match=r"model_type own \(its code is in its folder, which is not run\)"):
        load_base_model(folder, "d", settings)
