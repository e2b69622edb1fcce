"""Parity items of imports, against transformers and PEFT on a tiny random Llama."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from mindprint.model_files import model_digest
from mindprint.types import LoraLimits, ServerInfo
from mindprint_trainer.errors import BaseMismatch, TrainerError
from mindprint_trainer.peft_import import measure_adapter, read_files
from mindprint_trainer.settings import Settings
from tiny import TARGETS, logprobs, make_adapter, make_model

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
