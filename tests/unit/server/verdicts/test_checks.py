"""Thinking, verdicts and the profile's schedule: pure text and numbers."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import REASON_GROUPS, Reason
from mindprint_server.engine.types import FinishReason
from mindprint_server.memory.profiles import clean_sentences, due_lengths, split_into_pieces
from mindprint_server.prompts import thinking
from mindprint_server.settings import Settings
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


@pytest.mark.parametrize(
    ("answer_prefix", "parts"),
    [
        ("", ("", "")),
        ("Answer:", ("Answer:", " ")),
        ("Answer: ", ("Answer:", " ")),
        ("Answer:\n", ("Answer:\n", "")),
        ("Answer:\n\t", ("Answer:\n", "\t")),
    ],
)
def test_space_behind_the_answer_prefix_belongs_to_the_answer(answer_prefix: str, parts: tuple[str, str]) -> None:
    assert thinking.split_answer_prefix(answer_prefix) == parts


def test_finalized_thinking_is_its_prefix_and_the_rest() -> None:
    assert thinking.split("Shown: much", "Shown: ") == ("Shown:", " much")
    assert thinking.split("Other words", "Shown:") == ("", "Other words")
    assert thinking.split("Shown:", "Shown:") == ("Shown:", "")
    assert thinking.split("much", "") == ("", "much")


def test_a_thinking_is_checked_by_its_words() -> None:
    thinking_prefix = "What this user has shown:"
    checker = checks.ThinkingChecker(Settings())

    def check(text: str, finish: FinishReason = "stop") -> str | None:
        return checker.check(text, thinking_prefix=thinking_prefix, mode="personal", finish=finish)

    assert check(FINE) is None
    assert check(FINE, "loop") == "loop"
    assert check(thinking_prefix + " the sea and the hills" * 6) == "loop"
    assert check(thinking_prefix + " not much") == "empty"
    assert check(thinking_prefix) == "empty"
    assert check(thinking_prefix + " This user's answer: the lake") == "empty"
    assert check(FINE + " So the given answer is lake.") == "leak"
    assert check(FINE + " Their actual response was lake.") == "leak"
    for tag in ("<think>", "</thought>", "<reasoning>", "</x:think>", "[/THINK]"):
        assert check(f"{FINE} {tag} Once more.") == "parse"


@pytest.mark.parametrize(
    ("stage", "score", "good", "bad", "reason"),
    [
        ("gain", "gain", 0.1, 0.09, "low_gain"),
        ("anchor", "anchor", 0.2, 0.19, "low_anchor"),
        ("hindsight", "hindsight_gap", 0.5, 0.51, "hindsight"),
    ],
)
def test_scores_decide_by_their_bounds_or_not_at_all(
    stage: checks.Stage, score: str, good: float, bad: float, reason: str
) -> None:
    bounded = Settings(min_gain=0.1, min_anchor=0.2, max_hindsight_gap=0.5)
    unbounded = Settings(min_gain=None, min_anchor=None, max_hindsight_gap=None)

    def failed(value: float, settings: Settings) -> str | None:
        measured = checks.Measurements(FINE, "stop", 9, scores={score: value})
        check = checks.first_failed(stage, measured, settings)
        return check.reason if check else None

    assert failed(good, bounded) is None
    assert failed(bad, bounded) == failed(float("nan"), bounded) == reason
    assert failed(bad, unbounded) is None


def test_every_reason_has_one_check_in_the_order_of_the_stages() -> None:
    reasons = [check.reason for check in checks.CHECKS]
    assert sorted([*reasons, "not_selected"]) == sorted(get_args(Reason)) == sorted(REASON_GROUPS)
    stages = [checks.STAGES.index(check.stage) for check in checks.CHECKS]
    assert stages == sorted(stages)


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
    lengths = due_lengths(covered, total, every)
    assert all(length % every == 0 and covered < length <= total for length in lengths)
    assert len(lengths) == max(0, total // every - covered // every)


@given(st.lists(st.integers()), st.integers(1, 7))
def test_pieces_are_the_whole(items: list[int], size: int) -> None:
    parts = split_into_pieces(items, size)
    assert [x for part in parts for x in part] == items
    assert all(len(part) == size for part in parts[:-1])


def test_notes_lose_repeats_and_a_cut_end() -> None:
    assert clean_sentences("Likes tea. Likes tea. Hates noise. And the") == "Likes tea. Hates noise."
    assert clean_sentences("only a fragment") == "only a fragment."
    assert clean_sentences("  ") == ""
