from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import ImportedTrace, Provenance, Trace
from mindprint_eval.training_sets import Thresholds, select_accepted, select_hinted, shuffle_thinking, training_user_id

numbers = count()


def candidate(engagement: str, reason: str | None = None, saw: bool = False, **scores: float) -> Trace:
    made: Any = {
        "model": "base", "adapter_digest": None, "base_digest": "b", "prompt_version": "1", "mode": "personal",
        "sampling": {}, "seed": 1, "engine": "fake", "saw_answer": saw,
    }  # fmt: skip
    return Trace(
        id=f"t{next(numbers):04d}", user_id="ann", engagement_id=engagement, mode="personal", query="q",
        thinking=f"about {engagement}", answer="yes", verdict="rejected" if reason else "accepted", reason=reason,
        scores=scores, provenance=Provenance(**made), created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def ids(lessons: list[ImportedTrace]) -> list[str]:
    return [lesson.engagement_id for lesson in lessons if lesson.selected]


def test_by_default_the_service_has_decided() -> None:
    traces = [candidate("a", gain=-1.0), candidate("b", "low_gain", gain=0.9), candidate("a", gain=3.0)]
    assert ids(select_accepted(traces, Thresholds())) == ["a"]


def test_answer_is_learned_after_the_first_sound_unhinted_thinking() -> None:
    traces = [
        candidate("a"),
        candidate("a", "wrong_answer"),
        candidate("b", "loop"),
        candidate("b", "low_gain", saw=True),
        candidate("b", "low_gain"),
        candidate("c", "leak"),
        candidate("d", "wrong_answer"),
        candidate("d"),
        candidate("e", "low_anchor"),
        candidate("e", saw=True),
    ]
    lessons = select_accepted(traces, Thresholds())
    assert [(one.engagement_id, one.selected, one.saw_answer) for one in lessons] == [
        ("a", True, False),
        ("b", False, False),
        ("d", False, False),
        ("d", True, False),
        ("e", False, False),
        ("e", True, True),
    ], "one that was not selected comes before the accepted one, as it was drawn"
    assert select_accepted(traces[1:6], Thresholds()) == [], "without a lesson nothing is trained"


def test_other_bounds_apply_to_the_stored_scores() -> None:
    traces = [
        candidate("a", gain=0.1, anchor=0.2),
        candidate("b", "low_gain", gain=-0.1),
        candidate("c", "low_anchor", gain=0.5, anchor=-0.3),
        candidate("d", "loop"),
    ]
    assert ids(select_accepted(traces, Thresholds(gain=-0.2, anchor=0.0))) == ["a", "b"]
    assert ids(select_accepted(traces, Thresholds(gain=0.05))) == ["a", "c"]
    assert ids(select_accepted(traces, Thresholds(gain=-1.0, anchor=-1.0))) == ["a", "b", "c"]


def test_hinted_training_set_leads_to_the_answers_that_the_base_knew() -> None:
    traces = [
        candidate("a", saw=True),
        candidate("b", "low_anchor", saw=True),
        candidate("c", "wrong_answer", saw=True),
        candidate("d", saw=False),
        candidate("e", saw=True),
        candidate("open", saw=True),
    ]
    assert ids(select_hinted(traces, {"a": True, "b": True, "c": True, "d": True, "e": False})) == ["a", "b", "open"]


@given(st.integers(2, 12), st.text(max_size=5))
def test_shuffled_thinking_is_never_its_own(count: int, seed: str) -> None:
    lessons = [ImportedTrace(engagement_id=f"e{n}", thinking=f"thinking {n}") for n in range(count)]
    moved = shuffle_thinking(lessons, seed)
    assert ids(moved) == ids(lessons)
    assert sorted(one.thinking for one in moved) == sorted(one.thinking for one in lessons)
    assert all(one.thinking != other.thinking for one, other in zip(moved, lessons, strict=True))
    assert shuffle_thinking(lessons, seed) == moved


def test_selected_thinking_is_shuffled_among_itself() -> None:
    """Two of an engagement are not taken for one another, and what cannot be shuffled is left out."""
    lessons = [
        ImportedTrace(engagement_id="a", thinking="a first", selected=False),
        ImportedTrace(engagement_id="a", thinking="a"),
        ImportedTrace(engagement_id="b", thinking="b"),
    ]
    assert [(one.engagement_id, one.thinking, one.selected) for one in shuffle_thinking(lessons, "0")] == [
        ("a", "b", True),
        ("b", "a", True),
    ]
    lessons.append(ImportedTrace(engagement_id="b", thinking="b first", selected=False))
    moved = {(one.engagement_id, one.selected): one.thinking for one in shuffle_thinking(lessons, "0")}
    assert moved == {("a", False): "b first", ("a", True): "b", ("b", True): "a", ("b", False): "a first"}


def test_one_trace_cannot_be_shuffled() -> None:
    assert shuffle_thinking([ImportedTrace(engagement_id="e", thinking="z")], "0") == []


def test_another_training_set_trains_another_user() -> None:
    assert training_user_id("ann", "fast", [1]) == training_user_id("ann", "fast", [1])
    assert training_user_id("ann", "fast", [1]) != training_user_id("ann", "fast", [2])
    assert len(training_user_id("a" * 64, "distilled", [1])) <= 64
