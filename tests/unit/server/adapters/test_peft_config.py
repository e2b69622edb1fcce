from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mindprint_server.adapters.peft_config import CHECKED, IGNORED, SERVED, AdapterConfig, read_config
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings
from weights import adapter_config, nested

TARGETS = ("q_proj", "up_proj")


def read(text: bytes, **changes: Any) -> AdapterConfig:
    return read_config(text, max_rank=16, targets=TARGETS, settings=AdapterSettings(**changes))


def refusal(text: bytes, **changes: Any) -> Invalid:
    with pytest.raises(Invalid) as error:
        read(text, **changes)
    assert ": " in error.value.message, "it says what to do"
    return error.value


def without(name: str) -> bytes:
    config = json.loads(adapter_config())
    del config[name]
    return json.dumps(config).encode()


def test_read_config_returns_rank_and_targets() -> None:
    assert read(adapter_config()) == AdapterConfig(4, frozenset({"q_proj"}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"lora_dropout": 0.1},
        {"layers_to_transform": [0]},
        {"base_model_name_or_path": "base", "revision": "main"},
    ],
)
def test_read_config_as_peft_writes_it_passes(options: dict[str, Any]) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
    assert read(json.dumps(config.to_dict(), default=sorted).encode()).rank == 4


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "adapter_config"),
        (b"{", "adapter_config"),
        (b"[]", "adapter_config"),
        (b"null", "adapter_config"),
        (b"\xff", "adapter_config"),
        (nested(30_000), "adapter_config"),
        (b'{"r":' + b"[" * 30_000, "adapter_config"),
        (b'{"peft_type":"LORA","r":4,"r":8,"lora_alpha":8,"target_modules":["q_proj"]}', "adapter_config"),
        (adapter_config(lora_alpha=float("nan")), "adapter_config"),
        (adapter_config(peft_type="IA3"), "adapter_config"),
        (adapter_config(peft_type=["LORA"]), "adapter_config"),
        (adapter_config(task_type="SEQ_CLS"), "adapter_config"),
        (adapter_config(bias="all"), "adapter_config"),
        (adapter_config(bias=None), "adapter_config"),
        (adapter_config(init_lora_weights="pissa"), "adapter_config"),
        (adapter_config(init_lora_weights={}), "adapter_config"),
        (adapter_config(use_rslora="yes"), "adapter_config"),
        (adapter_config(lora_dropout="0"), "adapter_config"),
        (adapter_config(r=17), "adapter_rank"),
        (adapter_config(r=0), "adapter_rank"),
        (adapter_config(r=True), "adapter_rank"),
        (adapter_config(r="4"), "adapter_rank"),
        (adapter_config(r=4.0), "adapter_rank"),
        (without("r"), "adapter_rank"),
        (adapter_config(lora_alpha=1e30), "adapter_alpha"),
        (adapter_config(lora_alpha=0), "adapter_alpha"),
        (adapter_config(lora_alpha=-8), "adapter_alpha"),
        (adapter_config(lora_alpha=True), "adapter_alpha"),
        (adapter_config(lora_alpha="8"), "adapter_alpha"),
        (without("lora_alpha"), "adapter_alpha"),
        (adapter_config(target_modules=["q_proj", "lm_head"]), "adapter_targets"),
        (adapter_config(target_modules="all-linear"), "adapter_targets"),
        (adapter_config(target_modules=[["q_proj"]]), "adapter_targets"),
        (adapter_config(target_modules=[{}]), "adapter_targets"),
        (adapter_config(target_modules=[]), "adapter_targets"),
        (adapter_config(target_modules=None), "adapter_targets"),
    ],
)
def test_read_config_that_cannot_be_served_is_refused(text: bytes, code: str) -> None:
    assert refusal(text).code == code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"(a+)+$": 8}),
        ("layer_replication", [[0, 1]]),
        ("lora_bias", True),
        ("alora_invocation_tokens", [1]),
        ("use_qalora", True),
        ("use_bdlora", {"a": 1}),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["experts"]),
        ("fan_in_fan_out", True),
        ("corda_config", {"a": 1}),
        ("an_option_of_tomorrow", "on"),
    ],
)
def test_read_config_with_option_the_engine_lacks_names_it(name: str, value: Any) -> None:
    error = refusal(adapter_config(**{name: value}))
    assert (error.code, error.param) == ("adapter_config", f"config.{name}")
    assert error.message == f"the engine cannot serve {name}: train without it"
    read(adapter_config(**{name: None}))


def test_read_config_options_are_those_of_the_engine() -> None:
    """An option that vLLM reads is served, refused or harmless here; none is unknown."""
    helper = pytest.importorskip("vllm.lora.peft_helper").PEFTHelper
    read_by_engine = {name for name in helper.__dataclass_fields__ if not name.startswith("vllm_")}
    refused = read_by_engine - {*SERVED, *IGNORED, *CHECKED}
    for name in refused:
        assert refusal(adapter_config(**{name: ["on"]})).param == f"config.{name}"
    assert not read_by_engine & IGNORED.keys()


def test_read_config_bounds_are_settings() -> None:
    assert refusal(adapter_config(revision="x" * 70_000)).code == "adapter_config"
    read(adapter_config(revision="x" * 70_000), max_adapter_config_bytes=100_000)
    assert refusal(adapter_config(lora_alpha=5000)).code == "adapter_alpha"
    read(adapter_config(lora_alpha=5000), max_lora_alpha=5000)
    deep = adapter_config(auto_mapping={"a": {"b": {"c": {"d": 1}}}})
    assert refusal(deep, max_upload_json_depth=4).code == "adapter_config"
    read(deep, max_upload_json_depth=5)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


@given(st.sampled_from([*SERVED, *IGNORED, *CHECKED, "use_dora", "other"]), VALUES)
@hypothesis_settings(max_examples=200)
def test_read_config_with_any_value_passes_or_refuses(name: str, value: Any) -> None:
    try:
        read(adapter_config(**{name: value}))
    except Invalid:
        return
