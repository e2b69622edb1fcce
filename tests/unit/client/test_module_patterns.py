from __future__ import annotations

import pytest

from mindprint.module_patterns import (
    MAX_EXPRESSIONS,
    MAX_KEY_LENGTH,
    find_refused_key,
    match_module,
)

LAYERS = [f"model.layers.{n}.{part}" for n in (0, 1, 10) for part in ("self_attn.q_proj", "mlp.up_proj", "seq_proj")]


@pytest.mark.parametrize(
    "key",
    [
        "q_proj",
        "model.layers.0.self_attn.q_proj",
        r"model\.layers\.0\.self_attn\.q_proj",
        "^model.layers.1.mlp.up_proj$",
        r"layers\.\d+\.mlp.*",
        r"layers.(?:0|10).self_attn.(q_proj|k_proj)",
        "layers.[0-9]+.mlp.up_proj",
        r"layers\.\d+\.(mlp|experts\.[0-9]+)\.up_proj",
    ],
)
def test_match_module_with_served_key_matches_what_peft_matches(key: str) -> None:
    get_pattern_key = pytest.importorskip("peft.utils.other").get_pattern_key
    assert find_refused_key([key]) is None
    for layer in LAYERS:
        assert match_module({key: True}, layer, False) is (get_pattern_key([key], layer) == key), layer


@pytest.mark.parametrize(
    "key",
    [
        *("(a+)+$", "(a|aa)*", "a*", "x{9}", ".*.*", "(a|b).*", "(", "a)|(b", "[a-z]", "", "a b"),
        *(r"\d+[0-9]+\d+", r"\d+\.\d+.*"),
    ],
)
def test_find_refused_key_names_what_may_take_long_or_is_no_expression(key: str) -> None:
    assert find_refused_key(["q_proj", key]) == key


def test_find_refused_key_bounds_the_number_of_expressions_but_not_of_names() -> None:
    names = [f"model.layers.{n}.q_proj" for n in range(1000)]
    expressions = [rf"layers.{n}.*" for n in range(MAX_EXPRESSIONS + 1)]
    assert find_refused_key(names + expressions[:-1]) is None
    assert find_refused_key(names + expressions) == expressions[-1]


def test_find_refused_key_bounds_the_length_of_names() -> None:
    assert find_refused_key(["q" * MAX_KEY_LENGTH]) is None
    assert find_refused_key(["q" * (MAX_KEY_LENGTH + 1)]) == "q" * (MAX_KEY_LENGTH + 1)


def test_find_refused_key_of_deep_groups_is_refused_before_it_is_compiled() -> None:
    served, refused = ("(" * count + "q" + ")" * count for count in (MAX_KEY_LENGTH // 2 - 1, 5000))
    assert find_refused_key([served]) is None
    assert find_refused_key([refused]) == refused
