from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from families import SERVED, tiny_model
from mindprint.types import LoraLimits, Start
from mindprint_trainer.errors import CannotTrain, TrainerError
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraAdapter, LoraModelView, TokenSpan
from mindprint_trainer.settings import Settings

LIMITS = LoraLimits(max_rank=8, target_modules=["q_proj", "down_proj", "lm_head_of_another_model"])


@pytest.fixture
def adapter(base: Base, settings: Settings) -> LoraAdapter:
    made = peft_io.create_initial_adapter(base.model, None, settings, LIMITS, 0)
    for parameter in made.parameters:
        torch.nn.init.normal_(parameter, std=0.05)
    return made


def start_of(files: peft_io.AdapterFiles, **changes: Any) -> Start:
    return Start(**({"adapter": "cohort/all", "version": 3, "digest": f"sha256:{files.digest}"} | changes))


def test_targets_are_the_layers_that_model_and_engine_both_have(base: Base) -> None:
    assert peft_io.resolve_target_modules(base.model, None, LIMITS) == ("down_proj", "q_proj")
    assert peft_io.resolve_target_modules(base.model, ["q_proj"], LIMITS) == ("q_proj",)


def test_targets_that_cannot_be_had_are_refused(base: Base) -> None:
    with pytest.raises(CannotTrain, match="takes no adapter on k_proj"):
        peft_io.resolve_target_modules(base.model, ["k_proj", "q_proj"], LIMITS)
    with pytest.raises(CannotTrain, match="none of the layers c_attn, it has down_proj, gate_proj"):
        peft_io.resolve_target_modules(base.model, None, LoraLimits(max_rank=8, target_modules=["c_attn"]))


def test_wanted_layers_when_the_model_fuses_them_then_it_says_which_and_what_it_has() -> None:
    limits = LoraLimits(max_rank=8, target_modules=["q_proj", "k_proj", "o_proj", "qkv_proj"])
    phi3 = tiny_model("phi3")
    with pytest.raises(CannotTrain) as caught:
        peft_io.resolve_target_modules(phi3, ["q_proj", "k_proj", "o_proj"], limits)
    assert str(caught.value) == (
        "the model has no layers k_proj, q_proj, it has down_proj, gate_up_proj, o_proj, qkv_proj: "
        "change MINDPRINT_TRAIN_TARGET_MODULES"
    )
    assert peft_io.resolve_target_modules(phi3, None, limits) == ("o_proj", "qkv_proj")


def test_head_when_the_engine_takes_adapters_on_it_then_still_gets_none(base: Base) -> None:
    limits = LoraLimits(max_rank=8, target_modules=["lm_head", "q_proj"])
    assert peft_io.resolve_target_modules(base.model, None, limits) == ("q_proj",)


def test_layers_of_an_image_encoder_when_their_names_are_those_of_text_layers_then_get_no_adapter(
    settings: Settings,
) -> None:
    gemma = tiny_model("gemma3")
    limits = LoraLimits(max_rank=8, target_modules=["q_proj", "fc1"])
    assert "model.vision_tower.encoder.layers.0.self_attn.q_proj" in dict(gemma.named_modules())
    assert peft_io.adaptable_names(gemma) == set(SERVED)
    created = peft_io.create_initial_adapter(gemma, None, settings, limits, 0)
    assert list(created.lora_A) == [f"model.language_model.layers.{i}.self_attn.q_proj" for i in range(2)]


def test_rank_stays_within_the_engine_s(base: Base, settings: Settings) -> None:
    wide = settings.model_copy(update={"rank": 64})
    assert peft_io.create_initial_adapter(base.model, None, wide, LIMITS, 0).config.rank == 8


def test_what_is_saved_is_safetensors_in_the_engine_s_type_without_a_path(
    base: Base, adapter: LoraAdapter, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "adapter"
    adapter.round_to(torch.bfloat16)
    files = peft_io.serialize(adapter, base.digest, torch.bfloat16)
    files.write(folder)
    with safe_open(folder / peft_io.WEIGHTS, framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sorted(file.name for file in folder.iterdir()) == [peft_io.CONFIG, peft_io.WEIGHTS]
    assert files.digest == hashlib.sha256((folder / peft_io.WEIGHTS).read_bytes()).hexdigest()
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert len(saved) == len(adapter.parameters) == 2 * 2 * 2
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in saved
    for name, tensor in peft_io.named_parameters(adapter).items():
        assert torch.equal(saved[name].float(), tensor), "rounding left something to round"
    text = (folder / peft_io.CONFIG).read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == base.digest
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert base.model.config._name_or_path not in text


def test_peft_loads_it_and_answers_alike(base: Base, adapter: LoraAdapter, model_path: Path, tmp_path: Path) -> None:
    peft_io.serialize(adapter, base.digest, torch.float32).write(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, str(tmp_path))
    stack = LoraModelView(base.model, [adapter])
    stack.route([TokenSpan(0, 0, 30)])
    ids = torch.arange(30).unsqueeze(0)
    with torch.inference_mode():
        torch.testing.assert_close(stack.model(ids).logits, theirs(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_training_begins_with_its_parent_s_weights_rank_alpha_and_layers(
    base: Base, settings: Settings, adapter: LoraAdapter, tmp_path: Path
) -> None:
    files = peft_io.serialize(adapter, base.digest, torch.float32)
    files.write(tmp_path)
    parent = peft_io.read_parent(tmp_path, start_of(files))
    assert parent.name == "cohort/all@3"
    other = settings.model_copy(update={"rank": 2, "alpha": 99, "target_modules": ("q_proj",)})
    child = peft_io.create_initial_adapter(base.model, parent, other, LIMITS, 7)
    assert child.config == adapter.config
    for name, tensor in peft_io.named_parameters(adapter).items():
        assert torch.equal(peft_io.named_parameters(child)[name], tensor)
    assert all(tensor.requires_grad for tensor in child.parameters)


def test_rank_stabilized_parent_keeps_its_scale(base: Base, adapter: LoraAdapter, tmp_path: Path) -> None:
    files = peft_io.serialize(adapter, base.digest, torch.float32)
    files.write(tmp_path)
    saved = json.loads((tmp_path / peft_io.CONFIG).read_text()) | {"use_rslora": True}
    (tmp_path / peft_io.CONFIG).write_text(json.dumps(saved))
    config = peft_io.read_parent(tmp_path, start_of(files)).config
    assert config.alpha / config.rank == pytest.approx(8 / 4**0.5)


def test_a_parent_that_is_not_what_its_digest_says_is_refused(base: Base, adapter: LoraAdapter, tmp_path: Path) -> None:
    files = peft_io.serialize(adapter, base.digest, torch.float32)
    files.write(tmp_path)
    with pytest.raises(TrainerError, match="the weights of cohort/all@3 are sha256:"):
        peft_io.read_parent(tmp_path, start_of(files, digest="sha256:feed"))
    (tmp_path / peft_io.CONFIG).write_text('{"r": null}')
    with pytest.raises(TrainerError, match="the files of cohort/all@3 cannot be read"):
        peft_io.read_parent(tmp_path, start_of(files))


def test_a_parent_that_does_not_fit_is_refused(
    base: Base, settings: Settings, adapter: LoraAdapter, tmp_path: Path
) -> None:
    files = peft_io.serialize(adapter, base.digest, torch.float32)
    files.write(tmp_path)
    parent = peft_io.read_parent(tmp_path, start_of(files))
    with pytest.raises(CannotTrain, match="has rank 4, the engine takes 2"):
        peft_io.create_initial_adapter(base.model, parent, settings, LIMITS.model_copy(update={"max_rank": 2}), 0)
    with pytest.raises(CannotTrain, match="takes no adapter on down_proj"):
        peft_io.create_initial_adapter(
            base.model, parent, settings, LIMITS.model_copy(update={"target_modules": ["q_proj"]}), 0
        )
    name, *_ = parent.tensors
    torn = peft_io.ParentAdapter(parent.start, parent.config, {**parent.tensors, name: torch.zeros(1, 1)})
    with pytest.raises(CannotTrain, match="does not fit the base model"):
        peft_io.create_initial_adapter(base.model, torn, settings, LIMITS, 0)
