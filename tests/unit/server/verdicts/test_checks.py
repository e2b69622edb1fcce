"""Thinking, verdicts and the profile's schedule: pure text and numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.memory.profiles import due, pieces, sentences
from mindprint_server.prompts import thinking
from mindprint_server.verdicts import checks

FINE = "What this user has shown: they chose the quiet lake twice and avoided the crowded town."


@pytest.mark.parametrize(
    ("finish", "kept"),
    [("length", "Shown: one. Two is so."), ("stop", "Shown: one. Two is so. And then the")],
)
def test_a_thinking_cut_by_its_budget_ends_with_a_sentence(finish: str, kept: str) -> None:
    assert thinking.finalize_thinking("Shown:", " one. Two is so. And then the", finish) == kept  # type: ignore[arg-type]


def test_a_cut_thinking_without_a_sentence_is_kept_whole() -> None:
    assert thinking.finalize_thinking("Shown:", " no end in sight", "length") == "Shown: no end in sight"


def test_wrapping_is_what_reasoning_parsers_expect() -> None:
    assert thinking.render_thinking("so", "") == "<think>\nso\n</think>\n"
    assert (
        thinking.render_thinking("so", "Answer:") + thinking.answer_suffix("Answer:", "tea")
        == "<think>\nso\n</think>\nAnswer: tea"
    )
    assert thinking.answer_suffix("", "tea") == "tea"
    assert thinking.render_thinking("so", "").startswith(thinking.thinking_prefix("so"))


def test_a_kept_thinking_is_its_opening_and_the_rest() -> None:
    assert thinking.split("Shown: much", "Shown: ") == ("Shown:", " much")
    assert thinking.split("Other words", "Shown:") == ("", "Other words")
    assert thinking.split("Shown:", "Shown:") == ("Shown:", "")
    assert thinking.split("much", "") == ("", "much")


def test_verdicts() -> None:
    opening = "What this user has shown:"

    def of(text: str, finish: str = "stop") -> str | None:
        lead = "This user's answer:"
        return checks.of_thinking(text, opening, finish, min_words=5, answer_lead=lead)  # type: ignore[arg-type]

    assert of(FINE) is None
    assert of(FINE, "loop") == "loop"
    assert of(opening + " the sea and the hills" * 6) == "loop"
    assert of(opening + " not much") == "empty"
    assert of(opening) == "empty"
    assert of(opening + " This user's answer: the lake") == "empty"
    assert of(FINE + " So the given answer is lake.") == "leak"
    assert of(FINE + " Their actual response was lake.") == "leak"
    assert of(FINE + " <think> Once more.") == "parse"


def test_scores_decide_by_their_thresholds_or_not_at_all() -> None:
    some = checks.Thresholds(gain=0.1, anchor=0.2, hindsight=0.5)
    none = checks.Thresholds(None, None, None)
    for judge, good, bad, reason in (
        (checks.of_gain, 0.1, 0.09, "low_gain"),
        (checks.of_anchor, 0.2, 0.19, "low_anchor"),
        (checks.of_hindsight, 0.5, 0.51, "hindsight"),
    ):
        assert judge(good, some) is None
        assert judge(bad, some) == judge(float("nan"), some) == reason
        assert judge(bad, none) is None


def test_the_same_words_have_the_same_fingerprint() -> None:
    assert checks.fingerprint("Likes  tea,\nand quiet!") == checks.fingerprint("likes tea and quiet")
    assert checks.fingerprint("Likes tea.") != checks.fingerprint("Likes coffee.")


def test_shortfall_is_how_far_the_real_answer_trails() -> None:
    assert checks.shortfall({"a": -0.1, "b": -2.1}, "b") == 2.0
    assert checks.shortfall({"a": -0.1, "b": -2.1}, "a") == 0.0


def test_loop_is_a_4_gram_five_times() -> None:
    assert not checks.loops("a b c d " * 4)
    assert checks.loops("a b c d " * 5)


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
