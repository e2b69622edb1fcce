"""Parity items of imports, against transformers and PEFT on a tiny random Llama."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from mindprint.model_files import model_digest
from mindprint.types import LoraLimits, ServerInfo
from mindprint_trainer.errors import BaseMismatch, TrainerError
from mindprint_trainer.model.weights import load_model
from mindprint_trainer.peft_import import measure_adapter, read_files
from mindprint_trainer.settings import Settings
from quantized import change_config
from tiny import TARGETS, logprobs, make_adapter, make_model
from wrappers import make_wrapper

WEIGHTS = "adapter_model.safetensors"
SETTINGS = Settings(
    base_dtype="float32", compute_dtype="float32", device="cpu", parity_items=2, parity_pool=3, parity_target_tokens=3
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return make_adapter(base, folder, seed=1, use_rslora=True, alpha_pattern={"q_proj": 3}, rank_pattern={"up_proj": 2})


def info_of(base: Path, **changes: str) -> ServerInfo:
    told = {
        "mindprint": "0", "engine": "fake 1", "device": "none", "model": "m", "model_path": str(base),
        "base_digest": model_digest(base), "prompt_version": "1",
    }  # fmt: skip
    limits = LoraLimits(max_rank=16, target_modules=TARGETS)
    return ServerInfo(**told | changes, max_model_len=128, limits=limits)


def test_items_hold_pefts_own_values_of_the_likeliest_tokens(base: Path, adapter: Path) -> None:
    manifest = measure_adapter(adapter, "user/ann", info_of(base), SETTINGS).manifest
    assert (manifest.adapter, manifest.trace_ids, len(manifest.parity_items)) == ("user/ann", [], 2)
    for item in manifest.parity_items:
        assert len(item.prompt_ids) <= SETTINGS.parity_prompt_tokens
        begin, ids = len(item.prompt_ids) - 1, [*item.prompt_ids, *item.target_ids]
        for found, folder in ((item.logprobs, adapter), (item.base_logprobs, None)):
            rows = logprobs(base, ids, adapter=folder)
            wanted = [rows[begin + n][token] for n, token in enumerate(item.target_ids)]
            assert found == pytest.approx(wanted, abs=1e-4)
        assert item.logprobs != pytest.approx(item.base_logprobs, abs=0.05)


def test_given_prompts_replace_the_general_ones(base: Path, adapter: Path) -> None:
    measured = measure_adapter(adapter, "user/ann", info_of(base), SETTINGS, ["Tea?"])
    assert len(measured.manifest.parity_items) == 1


def test_files_of_served_dtypes_are_sent_as_they_are(adapter: Path) -> None:
    files = read_files(adapter)
    assert files.weights == (adapter / WEIGHTS).read_bytes()
    assert files.config == (adapter / "adapter_config.json").read_bytes()


def test_pickled_and_float8_weights_are_sent_as_safetensors_with_the_same_values(adapter: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(adapter / WEIGHTS).items()}
    for folder in (tmp_path / "pickled", tmp_path / "float8"):
        folder.mkdir()
        shutil.copy(adapter / "adapter_config.json", folder)
    torch.save(load_file(adapter / WEIGHTS), tmp_path / "pickled" / "adapter_model.bin")
    save_file(tensors, tmp_path / "float8" / WEIGHTS)
    pickled, float8 = (load(read_files(tmp_path / name).weights) for name in ("pickled", "float8"))
    for name, tensor in load_file(adapter / WEIGHTS).items():
        assert torch.equal(pickled[name], tensor)
        assert torch.equal(float8[name], tensors[name].to(torch.float32))


def test_folder_without_weights_says_what_to_name(tmp_path: Path, adapter: Path) -> None:
    shutil.copy(adapter / "adapter_config.json", tmp_path)
    with pytest.raises(TrainerError, match=r"adapter_model.safetensors is missing.*: name the folder"):
        read_files(tmp_path)


def test_other_base_model_is_refused_before_it_is_loaded(base: Path, adapter: Path) -> None:
    with pytest.raises(BaseMismatch, match="--model"):
        measure_adapter(adapter, "user/ann", info_of(base, base_digest="sha256:0"), SETTINGS)
    with pytest.raises(TrainerError, match=r"is not here .*--model"):
        measure_adapter(adapter, "user/ann", info_of(base, model_path="/nowhere"), SETTINGS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "the engine cannot serve use_dora: train without it, or convert the adapter"),
        ({"modules_to_save": ["lm_head"]}, "the engine cannot serve modules_to_save"),
        ({"bias": "all"}, "the engine cannot serve bias='all': train with bias='none'"),
        ({"init_lora_weights": "pissa"}, "the engine cannot serve init_lora_weights='pissa'"),
        ({"r": 64}, "rank 64 is outside 1 to 16"),
    ],
)
def test_config_that_the_server_would_refuse_ends_before_anything_is_loaded(
    options: dict[str, Any], message: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | options))
    # There are no weights, and no base model.
    info = info_of(base, model_path=str(tmp_path / "nowhere"))
    with pytest.raises(TrainerError, match=message) as caught:
        measure_adapter(tmp_path, "user/ann", info, SETTINGS)
    assert "\n" not in str(caught.value)


def test_base_that_cannot_be_trained_is_refused_with_the_cure(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "awq")
    change_config(folder, quantization_config={"quant_method": "awq"})
    with pytest.raises(TrainerError, match=r"quantized with awq: serve and train the unquantized model"):
        measure_adapter(adapter, "user/ann", info_of(folder), SETTINGS)


def test_adapter_of_a_text_model_in_a_wrapper_is_measured(base: Path, tmp_path: Path) -> None:
    folder = make_wrapper(base, tmp_path / "wrapper", "qwen2_5_vl")
    model = load_model(folder, torch.float32)
    expression = r"model\.language_model\..*\.q_proj"
    peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=expression, init_lora_weights=False)
    ).save_pretrained(tmp_path / "adapter")
    (item, *_) = measure_adapter(tmp_path / "adapter", "user/ann", info_of(folder), SETTINGS).manifest.parity_items
    assert item.logprobs != pytest.approx(item.base_logprobs, abs=0.01)
