from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mindprint_trainer.errors import CannotTrain, TrainerError
from mindprint_trainer.model import base_model as module
from mindprint_trainer.model.base_model import Base, load_base_model, resolve_compute_dtype
from mindprint_trainer.settings import Settings

CPU = torch.device("cpu")


def test_text_becomes_ids_without_special_tokens(base: Base) -> None:
    assert len(base.encode_text("tea")) == 3
    assert base.encode_text("") == []
    assert base.end_of_turn == 256


def test_weights_are_rounded_to_what_is_served_and_frozen(model_path: Path, settings: Settings) -> None:
    stored = load_base_model(model_path, "d", settings.model_copy(update={"base_dtype": "float32"})).model.state_dict()
    wide = load_base_model(model_path, "d", settings.model_copy(update={"base_dtype": "bfloat16"}))
    assert {parameter.dtype for parameter in wide.model.parameters()} == {torch.float32}
    assert wide.serving_dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in wide.model.parameters())
    for name, parameter in wide.model.named_parameters():
        assert torch.equal(parameter, stored[name].to(torch.bfloat16).float())
    assert wide.model.get_output_embeddings().weight is wide.model.get_input_embeddings().weight


def test_bfloat16_is_computed_in_only_where_the_hardware_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_compute_dtype("bfloat16", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "amx_bf16": False}, raising=False)
    assert resolve_compute_dtype("auto", CPU) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert resolve_compute_dtype("auto", CPU) == torch.bfloat16


def test_a_folder_that_is_no_model_gets_one_line(model_path: Path, settings: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model_path, broken)
    (broken / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(TrainerError, match=r"model_type no such thing .*name another") as caught:
        load_base_model(broken, "d", settings)
    assert "\n" not in str(caught.value)


def test_threads_follow_the_setting(model_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    load_base_model(model_path, "d", settings)
    load_base_model(model_path, "d", settings.model_copy(update={"threads": None}))
    assert asked == [1, module.available_cores()]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    available: Any = lambda: True  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_available", available)
    assert module.resolve_device("auto") == "cuda"
    assert module.resolve_device("cpu") == "cpu"


def test_tokenizer_without_an_eos_token_trains_with_the_end_of_the_lease(
    model_path: Path, settings: Settings, tmp_path: Path
) -> None:
    """The server finds the end of a turn in the chat template."""
    folder = tmp_path / "model"
    shutil.copytree(model_path, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({name: value for name, value in config.items() if name != "eos_token"}), encoding="utf-8"
    )
    loaded = load_base_model(folder, "d", settings)
    assert loaded.eos_token_id is None
    with pytest.raises(CannotTrain, match="set eos_token"):
        _ = loaded.end_of_turn
