"""Ways to begin a LoRA: those that change the base model are refused, all others are served as PEFT computes them.

LoftQ needs bitsandbytes, so only its refusal is tested, in `test_peft_config.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.tuners.lora.loraga import preprocess_loraga
from transformers import LlamaForCausalLM

from mindprint_server.adapters.peft_config import read_config
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings
from tiny import make_model

# LoRA-GA reads gradients in hooks of layers whose inputs need none.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
TARGETS = ["q_proj", "v_proj"]
IDS = torch.arange(20, 60).reshape(2, 20)
KEPT: list[Any] = [True, "gaussian", "orthogonal", "eva", "mica"]
"""Beginnings that leave the base model as it is."""
CHANGING = ["pissa", "olora", "corda", "lora_ga"]
CONVERTED = ["pissa", "olora", "lora_ga"]
"""Of those, the ones that are converted here by what the refusal says."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def load(base: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def begin(model: Any, init: Any) -> PeftModel:
    """What a trainer does before the first step."""
    more: dict[str, Any] = {
        "corda": {"corda_config": CordaConfig(corda_method="kpm")},
        "lora_ga": {"lora_ga_config": LoraGAConfig()},
    }.get(init, {})
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=init, **more)
    if init == "corda":
        preprocess_corda(model, config, run_model=lambda: model(IDS[:1]))
    if init == "lora_ga":
        preprocess_loraga(model, config, lambda: model(IDS, labels=IDS).loss.backward())
    made = get_peft_model(model, config)
    if init == "eva":
        initialize_lora_eva_weights(made, [{"input_ids": IDS}] * 4)
    return made


def train_step(model: PeftModel) -> None:
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()


def as_the_engine_reads(base: Path, folder: Path) -> Any:
    """The saved tensors on the served base. PEFT would change the base again where the configuration says so."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"init_lora_weights": True}), encoding="utf-8")
    return PeftModel.from_pretrained(load(base), folder)


@torch.inference_mode()
def outputs(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


def refusal(folder: Path) -> Invalid | None:
    text = (folder / "adapter_config.json").read_bytes()
    try:
        read_config(text, max_rank=16, targets=TARGETS, settings=AdapterSettings())
    except Invalid as error:
        return error
    return None


@pytest.mark.parametrize("init", [*KEPT, *CHANGING])
def test_beginning_is_served_if_a_saved_adapter_answers_as_the_trained_one(
    base: Path, tmp_path: Path, init: Any
) -> None:
    torch.manual_seed(0)
    model = begin(load(base), init)
    train_step(model)
    model.save_pretrained(tmp_path)
    refused = refusal(tmp_path)
    again = as_the_engine_reads(base, tmp_path)
    is_same = torch.allclose(outputs(again), outputs(model), atol=1e-4)
    assert is_same == (init in KEPT)
    assert (refused is None) == is_same
    if refused is not None:
        assert (refused.code, refused.param) == ("adapter_config", "config.init_lora_weights")
        assert f"init_lora_weights={init!r}" in refused.message
        assert "path_initial_model_for_weight_conversion" in refused.message
    assert not torch.allclose(outputs(model), outputs(load(base)), atol=1e-3), "the step changed the answers"


@pytest.mark.parametrize("init", CONVERTED)
def test_adapter_converted_as_the_refusal_says_is_served_with_the_same_answers(
    base: Path, tmp_path: Path, init: str
) -> None:
    torch.manual_seed(0)
    model = begin(load(base), init)
    start, folder = tmp_path / "start", tmp_path / "made"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = init
    train_step(model)
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
    assert refusal(folder) is None
    again = as_the_engine_reads(base, folder)
    assert torch.allclose(outputs(again), outputs(model), atol=1e-3)
