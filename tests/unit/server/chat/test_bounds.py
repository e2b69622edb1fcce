"""Fields of a chat request that multiply its work."""

from __future__ import annotations

from typing import Any

import pytest

from mindprint_server.chat.bounds import MAX_ITEMS, check_lengths, check_numbers, read_answer_count
from mindprint_server.exceptions import Invalid


@pytest.mark.parametrize(
    ("body", "count"), [({}, 1), ({"n": None}, 1), ({"n": 1}, 1), ({"n": 8}, 8), ({"n": 2, "best_of": 5}, 5)]
)
def test_answer_count(body: dict[str, Any], count: int) -> None:
    assert read_answer_count(body, 8) == count


@pytest.mark.parametrize("field", ["n", "best_of"])
@pytest.mark.parametrize("value", [0, -1, 9, 16384, 2**70, "3", 3.0, True, [3], {}])
def test_answer_count_outside_its_bounds_is_refused(field: str, value: object) -> None:
    with pytest.raises(Invalid) as refused:
        read_answer_count({field: value}, 8)
    assert (refused.value.code, refused.value.param) == ("validation_error", field)


@pytest.mark.parametrize("field", MAX_ITEMS)
def test_long_lists_are_refused(field: str) -> None:
    check_lengths({field: ["x"] * MAX_ITEMS[field]})
    check_lengths({field: 3})  # vLLM says what is wrong with it
    with pytest.raises(Invalid) as refused:
        check_lengths({field: ["x"] * (MAX_ITEMS[field] + 1)})
    assert refused.value.param == field


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400, [1, {"a": [2**64]}]])
def test_integers_beyond_64_bits_are_refused(value: object) -> None:
    check_numbers({"seed": 2**63 - 1, "x": [-(2**63), 1e300, "9" * 40, None, True]})
    with pytest.raises(Invalid) as refused:
        check_numbers({"x": value})
    assert refused.value.param == "x"


@pytest.mark.parametrize(
    ("top_k", "is_refused"), [(2**31, True), ("4000000000", True), (2**31 - 1, False), ("x", False)]
)
def test_top_k_beyond_32_bits_is_refused(top_k: object, is_refused: bool) -> None:
    if not is_refused:
        return check_numbers({"top_k": top_k})
    with pytest.raises(Invalid):
        check_numbers({"top_k": top_k})
