"""Fields of a chat request that multiply its work."""

from __future__ import annotations

from typing import Any

import pytest

from mindprint_server.chat.bounds import MAX_ITEMS, ThinkingRoom, check_lengths, check_numbers, read_answer_count
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


# --- room for thinking and answer ---


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "most"),
    [
        (100, None, 64),
        (1000 - 4 - 16 - 64, None, 64),
        (1000 - 4 - 16 - 63, None, 63),
        (1000 - 4 - 16 - 1, None, 1),
        (100, 40, 40),
        (100, 200, 64),
        (1000 - 4 - 200, 200, 64),
        (1000 - 4 - 5, 5, 5),
        (1000 - 4 - 1, 1, 1),
    ],
)
def test_thinking_is_as_long_as_the_answer_leaves_room_for(prompt: int, max_tokens: int | None, most: int) -> None:
    room = ThinkingRoom(prompt=prompt, closing=4, model=1000, max_tokens=max_tokens)
    found = room.bound_thinking(64, 16)
    assert found == most
    least = 16 if max_tokens is None else max_tokens - found
    assert prompt + found + 4 + least <= 1000


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "param", "cure"),
    [
        (1000 - 4 - 16, None, "messages", "17 for thinking and answer do not fit: shorten the messages"),
        (5000, None, "messages", "shorten the messages, or ask with mode direct"),
        (5000, 10, "messages", "10 for thinking and answer do not fit: shorten the messages"),
        (700, 297, "max_completion_tokens", "700 tokens of the model's 1000, so that 297 .* ask for at most 296"),
    ],
)
def test_thinking_that_leaves_no_room_is_refused_with_the_cure(
    prompt: int, max_tokens: int | None, param: str, cure: str
) -> None:
    room = ThinkingRoom(prompt=prompt, closing=4, model=1000, max_tokens=max_tokens, field="max_completion_tokens")
    with pytest.raises(Invalid, match=cure) as error:
        room.bound_thinking(64, 16)
    assert (error.value.code, error.value.param) == ("prompt_too_long", param)
