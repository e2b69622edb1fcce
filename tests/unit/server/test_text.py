"""Thinking, verdicts and the profile's schedule: pure text and numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server import thinking, verdicts
from mindprint_server.memory.schedule import due, pieces, sentences

FINE = "What this user has shown: they chose the quiet lake twice and avoided the crowded town."


@pytest.mark.parametrize(
    ("finish", "kept"),
    [("length", "Shown: one. Two is so."), ("stop", "Shown: one. Two is so. And then the")],
)
def test_a_thinking_cut_by_its_budget_ends_with_a_sentence(finish: str, kept: str) -> None:
    assert thinking.settle("Shown:", " one. Two is so. And then the", finish) == kept  # type: ignore[arg-type]


def test_a_cut_thinking_without_a_sentence_is_kept_whole() -> None:
    assert thinking.settle("Shown:", " no end in sight", "length") == "Shown: no end in sight"


def test_wrapping_is_what_reasoning_parsers_expect() -> None:
    assert thinking.wrap("so") == "<think>\nso\n</think>\n"
    assert thinking.wrap("so").startswith(thinking.lead("so"))


def test_verdicts() -> None:
    opening = "What this user has shown:"

    def of(text: str, finish: str = "stop") -> str | None:
        return verdicts.of_thinking(text, opening, finish, min_words=5)  # type: ignore[arg-type]

    assert of(FINE) is None
    assert of(FINE, "loop") == "loop"
    assert of(opening + " the sea and the hills" * 6) == "loop"
    assert of(opening + " not much") == "empty"
    assert of(opening) == "empty"
    assert of(FINE + " So the given answer is lake.") == "leak"
    assert of(FINE + " Their actual response was lake.") == "leak"
    assert verdicts.of_answer("lake", "lake") is None
    assert verdicts.of_answer("town", "lake") == "wrong_answer"


def test_loop_is_a_4_gram_five_times() -> None:
    assert not verdicts.loops("a b c d " * 4)
    assert verdicts.loops("a b c d " * 5)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 12))
def test_profiles_are_due_at_multiples_and_once(covered: int, total: int, every: int) -> None:
    lengths = due(covered, total, every)
    assert all(length % every == 0 and covered < length <= total for length in lengths)
    assert len(lengths) == max(0, total // every - covered // every)


@given(st.lists(st.integers()), st.integers(1, 7))
def test_pieces_are_the_whole(items: list[int], size: int) -> None:
    parts = pieces(items, size)
    assert [x for part in parts for x in part] == items
    assert all(len(part) == size for part in parts[:-1])


def test_notes_lose_repeats_and_a_cut_end() -> None:
    assert sentences("Likes tea. Likes tea. Hates noise. And the") == "Likes tea. Hates noise."
    assert sentences("only a fragment") == "only a fragment."
    assert sentences("  ") == ""
