from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mindprint.types import LoraLimits
from mindprint_trainer import lora
from mindprint_trainer.base import Base
from mindprint_trainer.errors import CannotTrain
from mindprint_trainer.settings import Settings

LIMITS = LoraLimits(max_rank=8, target_modules=["q_proj", "down_proj", "lm_head_of_another_model"])


def test_targets_are_the_layers_that_model_and_engine_both_have(base: Base) -> None:
    assert lora.targets(base.model, None, LIMITS) == ["down_proj", "q_proj"]
    assert lora.targets(base.model, ["q_proj"], LIMITS) == ["q_proj"]


def test_targets_that_cannot_be_had_are_refused(base: Base) -> None:
    with pytest.raises(CannotTrain, match="takes no adapter on k_proj"):
        lora.targets(base.model, ["k_proj", "q_proj"], LIMITS)
    with pytest.raises(CannotTrain, match="none of the layers"):
        lora.targets(base.model, None, LoraLimits(max_rank=8, target_modules=["c_attn"]))


def test_rank_stays_within_the_engine_s(base: Base, settings: Settings) -> None:
    wide = settings.model_copy(update={"rank": 64})
    with lora.attached(base, wide, LIMITS, 0) as adapted:
        assert adapted.peft_config["default"].r == 8


def test_weights_start_in_float32_by_the_seed_and_leave_the_random_state_alone(base: Base, settings: Settings) -> None:
    def start(seed: int) -> list[torch.Tensor]:
        with lora.attached(base, settings, LIMITS, seed) as adapted:
            return [parameter.detach().clone() for parameter in lora.trainable(adapted)]

    before = torch.random.get_rng_state()
    one, same, other = start(1), start(1), start(2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))
    assert {tensor.dtype for tensor in one} == {torch.float32}


def test_what_is_saved_is_safetensors_in_the_engine_s_type_without_a_path(
    base: Base, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "adapter"
    with lora.attached(base, settings, LIMITS, 0) as adapted:
        lora.round_to(adapted, torch.bfloat16)
        digest = lora.save(adapted, folder, base.digest, torch.bfloat16)
        held = {name: tensor for name, tensor in adapted.named_parameters() if tensor.requires_grad}
        with safe_open(folder / lora.WEIGHTS, framework="pt") as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sorted(file.name for file in folder.iterdir()) == [lora.CONFIG, lora.WEIGHTS]
    assert digest == hashlib.sha256((folder / lora.WEIGHTS).read_bytes()).hexdigest()
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert len(saved) == len(held) == 2 * 2 * 2
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in saved
    for name, tensor in held.items():
        assert torch.equal(saved[name.replace(".default", "")].float(), tensor), "rounding left something to round"
    text = (folder / lora.CONFIG).read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == base.digest
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert str(tmp_path) not in text
    assert base.model.config._name_or_path not in text


def test_the_base_is_as_before(base: Base, settings: Settings) -> None:
    ids = torch.arange(40).unsqueeze(0)

    def state() -> tuple[torch.Tensor, list[str], dict[str, torch.Tensor]]:
        with torch.inference_mode():
            logits = base.model(input_ids=ids).logits
        names = [f"{name}: {type(module).__name__}" for name, module in base.model.named_modules()]
        return logits, names, {name: tensor.clone() for name, tensor in base.model.state_dict().items()}

    logits, names, weights = state()
    with lora.attached(base, settings, LIMITS, 0) as adapted:
        for parameter in lora.trainable(adapted):
            torch.nn.init.normal_(parameter)
        with torch.inference_mode():
            assert not torch.equal(adapted(input_ids=ids).logits, logits)
            with adapted.disable_adapter():
                assert torch.equal(adapted(input_ids=ids).logits, logits)
    after = state()
    assert torch.equal(after[0], logits)
    assert after[1] == names
    assert after[2].keys() == weights.keys()
    assert all(torch.equal(after[2][name], weights[name]) for name in weights)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
