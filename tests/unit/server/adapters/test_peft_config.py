from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mindprint.adapter_config import CHECKED, IGNORED, SERVED, AdapterConfig
from mindprint_server.adapters.peft_config import read_config
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
    assert read(adapter_config()) == AdapterConfig(4, frozenset(TARGETS), frozenset({"q_proj"}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"lora_dropout": 0.1},
        {"layers_to_transform": [0]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["lm_head"]},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 8}, "alpha_pattern": {r"^model\.layers\.\d+\.mlp.*": 4.5}},
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
        (adapter_config(rank_pattern={"q_proj": 17}), "adapter_rank"),
        (adapter_config(rank_pattern={"q_proj": "8"}), "adapter_rank"),
        (adapter_config(rank_pattern=["q_proj"]), "adapter_config"),
        (adapter_config(alpha_pattern={"q_proj": 0}), "adapter_alpha"),
        (adapter_config(alpha_pattern={"q_proj": None}), "adapter_alpha"),
        (adapter_config(layers_to_transform="0"), "adapter_config"),
        (adapter_config(layers_to_transform=[True]), "adapter_config"),
        (adapter_config(layers_pattern={"h": 1}), "adapter_config"),
        (adapter_config(exclude_modules=[1]), "adapter_config"),
        (adapter_config(exclude_modules={"q_proj": 1}), "adapter_config"),
        (adapter_config(target_modules=""), "adapter_targets"),
        (without("target_modules"), "adapter_targets"),
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
        ("layer_replication", [[0, 1]]),
        ("alora_invocation_tokens", [1]),
        ("use_qalora", True),
        ("use_bdlora", {"a": 1}),
        ("fan_in_fan_out", True),
        ("an_option_of_tomorrow", "on"),
    ],
)
def test_read_config_with_option_the_engine_lacks_names_it(name: str, value: Any) -> None:
    error = refusal(adapter_config(**{name: value}))
    assert (error.code, error.param) == ("adapter_config", f"config.{name}")
    assert error.message == f"the engine cannot serve {name}: train without it"
    read(adapter_config(**{name: None}))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("use_dora", True, "convert the adapter with peft.save_as_lora"),
        ("modules_to_save", ["lm_head"], "train without it"),
        ("lora_bias", True, "lora_bias=False"),
        ("trainable_token_indices", [1], "train without it"),
        ("target_parameters", ["experts"], "target_modules"),
        ("bias", "lora_only", "bias='none'"),
        ("init_lora_weights", "pissa", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "pissa_niter_4", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "olora", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "loftq", "train with another"),
        ("init_lora_weights", "lora_ga", "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "corda", "path_initial_model_for_weight_conversion"),
        ("alpha_pattern", {"(a+)+$": 8}, "the key '(a+)+$'"),
        ("rank_pattern", {"(a|aa)*": 8}, "name the modules in full"),
        ("exclude_modules", ".*self_attn.*", "write it as a list of names"),
        ("rank_pattern", {r"\d+" * 8: 8}, "at most 2 repetitions"),
        ("alpha_pattern", {"q" * 300: 8}, "256 characters a key"),
    ],
)
def test_read_config_with_option_that_changes_answers_names_it_and_the_cure(name: str, value: Any, says: str) -> None:
    error = refusal(adapter_config(**{name: value}))
    assert (error.code, error.param) == ("adapter_config", f"config.{name}")
    assert error.message.startswith("the engine cannot serve ")
    assert name in error.message
    assert says in error.message


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
def test_read_config_with_pattern_that_the_engine_ignores_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match=f"the engine cannot serve {name}: train without it"):
        read_config(
            adapter_config(**{name: {"q_proj": 8}}),
            max_rank=16,
            targets=TARGETS,
            settings=AdapterSettings(),
            ignored=[name],
        )


@pytest.mark.parametrize(
    "targets",
    ["all-linear", r"(?:.*?(?:language|text).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.q_proj)"],
)
def test_read_config_leaves_an_expression_of_targets_to_the_tensors(targets: str) -> None:
    config = read(adapter_config(target_modules=targets))
    assert config.listed is None
    assert config.is_adapted("model.layers.0.self_attn.q_proj")


def test_is_adapted_follows_names_paths_and_layers_as_peft_does() -> None:
    layer = "model.layers.1.self_attn.q_proj"
    for names in (["q_proj"], ["self_attn.q_proj"], [layer], ["lm_head", "q_proj"]):
        assert read(adapter_config(target_modules=names)).is_adapted(layer)
    for names in (["proj"], ["k_proj"], ["layers.0.self_attn.q_proj"]):
        assert not read(adapter_config(target_modules=names)).is_adapted(layer)
    assert read(adapter_config(layers_to_transform=[1])).is_adapted(layer)
    assert not read(adapter_config(layers_to_transform=[0])).is_adapted(layer)
    assert not read(adapter_config(layers_to_transform=0)).is_adapted(layer)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["q_proj"]},
        {"target_modules": r".*_proj", "exclude_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["proj", "1.self_attn.q_proj"]},
        {"target_modules": ["up_proj", "model.layers.0.self_attn.q_proj"], "layers_to_transform": [1]},
    ],
)
def test_is_adapted_of_each_layer_is_what_peft_adapts(options: dict[str, Any]) -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = read(adapter_config(**options))
    for layer in [f"model.layers.{n}.{part}" for n in (0, 1) for part in ("self_attn.q_proj", "mlp.up_proj")]:
        found = check_target_module_exists(LoraConfig(**options), layer)
        assert config.is_adapted(layer) is (bool(found) and "Excluded" not in type(found).__name__), layer


@pytest.mark.parametrize("pattern", ["h", ["layers", "h"]])
def test_read_config_with_foreign_layers_pattern_names_it_and_the_cure(pattern: str | list[str]) -> None:
    error = refusal(adapter_config(layers_to_transform=[0], layers_pattern=pattern))
    assert (error.code, error.param) == ("adapter_config", "config.layers_pattern")
    assert "names in full in target_modules" in error.message
    read(adapter_config(layers_pattern=pattern))


def test_rank_of_is_the_first_match_of_the_pattern() -> None:
    pattern = {r"layers\.1\..*q_proj": 2, "q_proj": 8}
    config = read(adapter_config(rank_pattern=pattern))
    ranks = [config.rank_of(f"model.layers.{n}.self_attn.{name}") for n in (0, 1) for name in ("q_proj", "k_proj")]
    assert ranks == [8, 4, 2, 4]


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
