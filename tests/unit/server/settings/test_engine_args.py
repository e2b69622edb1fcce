from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mindprint_server.settings import Settings


def test_engine_args_from_the_environment_keep_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_ENGINE_ARGS", '{"kv-cache-dtype": "fp8", "tensor_parallel_size": 2}')
    assert Settings().engine_args == {"kv_cache_dtype": "fp8", "tensor_parallel_size": 2}


def test_engine_args_of_flags_go_before_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_ENGINE_ARGS", '{"seed": 1, "quantization": "fp8"}')
    flags: Any = {"seed": "2"}
    assert Settings(engine_args=flags).engine_args == {"seed": "2", "quantization": "fp8"}


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("model", "set `model`"),
        ("max-num-seqs", "set `max_num_seqs`"),
        ("kv_cache_memory_bytes", "set `kv_cache_gib`"),
        ("lora_target_modules", "set `target_modules`"),
        ("--enable-lora", "it is always on"),
        ("api_key", "mindprint keys create"),
        ("enable_log_requests", "logs hold no texts"),
        ("hf_overrides", "the model's folder"),
        ("trust_remote_code", "no code of a model's folder is run.*a model that transformers knows"),
    ],
)
def test_option_that_mindprint_decides_is_refused_with_what_to_do(name: str, cure: str) -> None:
    given: Any = {name: "1"}
    with pytest.raises(ValidationError, match=f"is decided by Mindprint: .*{cure}"):
        Settings(engine_args=given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kv-cache-dtype": "fp8", "kv_cache_dtype": "auto"}, "kv_cache_dtype is there twice"),
        ({"quantization": None}, "quantization has no value"),
    ],
)
def test_option_that_cannot_be_read_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(engine_args=given)


def test_engine_args_of_another_engine_are_refused() -> None:
    with pytest.raises(ValidationError, match="engine_args are options of vLLM, and engine is fake: take them out"):
        Settings(engine="fake", engine_args={"seed": 1})
