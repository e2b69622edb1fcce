from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from structlog.testing import capture_logs

from mindprint_server.engine.lora_support import check_base, check_lora_support, has_experts, linear_layers

SERVED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model(folder: Path, layers: list[str], **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny"} | config))
    tensors: dict[str, Any] = {f"model.layers.0.part.{name}.weight": np.zeros((2, 2), np.float32) for name in layers}
    tensors["model.embed_tokens.weight"] = np.zeros((4, 2), np.float32)
    tensors["model.layers.0.input_layernorm.weight"] = np.zeros(2, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"hidden_size": 8}, False),
        ({"num_local_experts": 8}, True),
        ({"num_experts": 60, "num_experts_per_tok": 4}, True),
        ({"n_routed_experts": 64}, True),
        ({"ffn_config": {"moe_num_experts": 4}}, True),
        ({"text_config": {"num_experts": 128}}, True),
        ({"num_local_experts": 0}, False),
        ({"num_experts": 1}, False),
        ({"moe_num_experts": [64, 64]}, True),
        ({"moe_num_experts": [0, 0]}, False),
        ({"is_moe": False, "num_experts": 16384}, False),
        ({"is_moe": True, "num_experts": 16384}, True),
        ({"text_config": {"num_experts": None}}, False),
    ],
)
def test_has_experts_when_a_field_counts_more_than_one_then_is_true(config: dict[str, Any], found: bool) -> None:
    assert has_experts(config) is found


def test_experts_when_on_a_cpu_then_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = model(tmp_path, list(SERVED), model_type="mixtral", num_local_experts=8)
    with pytest.raises(RuntimeError, match="mixtral is a mixture of experts") as caught:
        check_lora_support(folder, SERVED, on_cpu=True)
    assert "\n" not in str(caught.value)
    check_lora_support(folder, SERVED, on_cpu=False)


def groups(*groups: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": dict(enumerate(groups))}}


INT8, FLOAT8, INT4 = ({"type": kind, "num_bits": bits} for kind, bits in (("int", 8), ("float", 8), ("int", 4)))


def test_int8_weights_and_activations_when_on_a_cpu_then_are_refused(tmp_path: Path) -> None:
    config = groups({"weights": INT4}, {"weights": INT8, "input_activations": INT8})
    folder = model(tmp_path, list(SERVED), **config)
    with pytest.raises(RuntimeError, match=r"are int8, and .*: name the unquantized model"):
        check_lora_support(folder, SERVED, on_cpu=True)
    check_lora_support(folder, SERVED, on_cpu=False)


@pytest.mark.parametrize(
    "config",
    [
        groups({"weights": INT8, "input_activations": None}),
        groups({"weights": FLOAT8, "input_activations": FLOAT8}),
        groups({"weights": INT4, "input_activations": INT8}),
        groups("other"),
        {"quantization_config": {"quant_method": "awq"}},
    ],
)
def test_other_quantized_weights_when_on_a_cpu_then_the_worker_decides(config: dict[str, Any], tmp_path: Path) -> None:
    check_lora_support(model(tmp_path, list(SERVED), **config), SERVED, on_cpu=True)


def test_fused_layers_when_some_names_are_missing_then_are_named_in_the_log(tmp_path: Path) -> None:
    folder = model(tmp_path, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])
    with capture_logs() as lines:
        check_lora_support(folder, SERVED, on_cpu=True)
    (line,) = lines
    assert line["lacks"] == ["gate_proj", "k_proj", "q_proj", "up_proj", "v_proj"]
    assert line["has"] == ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]


def test_layers_when_the_model_has_none_of_them_then_are_refused(tmp_path: Path) -> None:
    folder = model(tmp_path, ["c_attn", "c_proj"])
    with pytest.raises(RuntimeError, match=r"the model has none of q_proj.*: name some of c_attn, c_proj"):
        check_lora_support(folder, SERVED, on_cpu=True)


def test_layers_when_all_are_there_then_nothing_is_said(tmp_path: Path) -> None:
    with capture_logs() as lines:
        check_lora_support(model(tmp_path, list(SERVED)), SERVED, on_cpu=True)
    assert lines == []


def test_files_when_a_folder_has_no_weights_then_nothing_is_refused(tmp_path: Path) -> None:
    check_lora_support(tmp_path, SERVED, on_cpu=True)


def test_linear_layers_when_a_tensor_is_no_matrix_of_a_layer_then_leave_it_out() -> None:
    shapes = {
        "model.norm.weight": (4,),
        "lm_head.weight": (8, 4),
        "model.embed_tokens.weight": (8, 4),
        "a.b.bias": (4,),
    }
    assert linear_layers(shapes | {"model.layers.0.mlp.fc1.weight": (4, 4)}) == {"fc1"}


@pytest.mark.parametrize("tensor", ["qweight", "weight_packed", "weight_q"])
def test_layers_when_some_are_quantized_then_the_worker_decides(tensor: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {"quantization_config": {"quant_method": "gptq"}}
    folder = model(tmp_path, ["gate"], text_config=config)
    save_file({f"model.layers.0.self_attn.q_proj.{tensor}": np.zeros((2, 2), np.int32)}, folder / "more.safetensors")
    check_lora_support(folder, SERVED, on_cpu=False)
    model(tmp_path, ["gate"])
    with pytest.raises(RuntimeError, match="the model has none of"):
        check_lora_support(folder, SERVED, on_cpu=False)


def test_base_when_it_cannot_be_trained_then_the_log_says_so_at_start(tmp_path: Path) -> None:
    folder = model(tmp_path, list(SERVED), quantization_config={"quant_method": "awq"})
    with capture_logs() as lines:
        check_base(folder, ())
    (line,) = lines
    assert line["log_level"] == "warning"
    assert "quantized with awq: serve and train the unquantized model" in line["reason"]


def test_base_when_the_engine_cannot_read_its_weights_then_it_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path, list(SERVED), quantization_config={"quant_method": "own"})
    with pytest.raises(RuntimeError, match="quantized with own, which vLLM does not read: name the unquantized model"):
        check_base(folder, ())
    check_base(folder, ["own"])


def test_base_when_it_is_not_quantized_then_nothing_is_said(tmp_path: Path) -> None:
    with capture_logs() as lines:
        check_base(model(tmp_path, list(SERVED), model_type="llama", architectures=["LlamaForCausalLM"]), ())
    assert lines == []
