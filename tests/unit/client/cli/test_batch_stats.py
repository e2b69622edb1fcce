"""The numbers that are told of a batch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mindprint.cli import batch_stats
from mindprint.types import Batch, BatchRequest, Funnel

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def batch(**changes: Any) -> Batch:
    """100 engagements, 40 of them done in 200 seconds."""
    funnel = Funnel(attempted=38, generated=80, rejected={"wrong_answer": 52, "loop": 8}, accepted=20)
    made: dict[str, Any] = {
        "id": "b1",
        "state": "running",
        "request": BatchRequest(),
        "items": 100,
        "done": 40,
        "skipped": {"no_history": 2},
        "funnel": funnel,
        "generated_tokens": 4000,
        "prompt_tokens": 1000,
        "cached_tokens": 660,
        "tokens_per_second": 20.0,
        "created_at": LONG_AGO,
        "started_at": LONG_AGO,
    }
    return Batch(**(made | changes))


def test_funnel_rows_are_in_order_of_the_stages() -> None:
    assert batch_stats.funnel_rows(batch()) == [
        ("attempted", 38, None),
        ("  skipped: no_history", 2, None),
        ("generated", 80, 1.0),
        ("  rejected: loop", 8, 0.1),
        ("  rejected: wrong_answer", 52, 0.65),
        ("accepted", 20, 0.25),
        ("trained", 0, None),
        ("live", 0, None),
    ]


def test_cut_memories_and_hinted_traces_are_shown_where_there_are_any() -> None:
    rows = batch_stats.funnel_rows(batch(truncated=2, hinted=1, funnel=Funnel(generated=4, accepted=2)))
    assert ("  memory cut to fit", 2, None) in rows
    assert ("  saw the answer", 1, 0.25) in rows
    assert not {row.name for row in batch_stats.funnel_rows(batch())} & {"  memory cut to fit", "  saw the answer"}


def test_what_nobody_judged_is_in_the_funnel_too() -> None:
    rows = batch_stats.funnel_rows(batch(funnel=Funnel(generated=10, accepted=1)))
    assert ("  not judged", 9, 0.9) in rows


def test_nothing_generated_has_no_shares() -> None:
    rows = batch_stats.funnel_rows(batch(skipped={}, funnel=Funnel()))
    assert {row.share for row in rows} == {None}


def test_time_left_is_estimated_from_running_time() -> None:
    assert batch_stats.running_seconds(batch()) == 200
    assert batch_stats.seconds_left(batch()) == 300


def test_a_restart_and_the_wait_for_it_play_no_part() -> None:
    """The batch began years ago, and stood still for most of them."""
    assert dict(batch_stats.pace(batch()))["running for"] == "3 min"
    assert dict(batch_stats.pace(batch()))["time left"] == "about 5 min"


@pytest.mark.parametrize(
    "changes",
    [
        {"done": 0},
        {"done": 9},  # the first of many in flight
        {"state": "queued"},
        {"generated_tokens": 0, "tokens_per_second": 0.0},
        {"generated_tokens": 0},
        {"tokens_per_second": 0.0},
    ],
)
def test_time_left_is_unknown_while_it_would_be_a_guess(changes: dict[str, Any]) -> None:
    assert batch_stats.seconds_left(batch(**changes)) is None
    assert dict(batch_stats.pace(batch(**changes)))["time left"] == "unknown"
    assert batch_stats.summary(batch(**changes)).endswith("time left unknown")


def test_small_batch_is_estimated_from_its_first_engagement() -> None:
    assert batch_stats.seconds_left(batch(items=4, done=1)) == 600


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_nothing_is_left_of_a_batch_that_ended(state: str) -> None:
    told = dict(batch_stats.pace(batch(state=state)))
    assert "time left" not in told
    assert told["ran for"] == "3 min"
    assert "left" not in batch_stats.summary(batch(state=state))


def test_the_pace() -> None:
    assert dict(batch_stats.pace(batch())) == {
        "tokens/s": "20",
        "engagements accepted/s": "0.10",
        "candidates an engagement": "2.1",
        "prompt tokens cached": "66.0 %",
        "running for": "3 min",
        "time left": "about 5 min",
    }


def test_an_engagement_counts_once_however_many_of_its_candidates_were_accepted() -> None:
    drawn_together = batch(funnel=Funnel(attempted=10, generated=40, accepted=30))
    assert batch_stats.accepted_engagements(drawn_together) == 10


def test_a_batch_that_has_not_begun_has_no_pace() -> None:
    fresh = Batch(id="b", state="queued", request=BatchRequest(), items=9, done=0, funnel=Funnel(), created_at=LONG_AGO)
    assert {value for _, value in batch_stats.pace(fresh)} == {"0", None, "unknown"}
    assert batch_stats.summary(fresh) == (
        "queued: 0/9 engagements, 0 candidates, 0 accepted, 0 tokens/s, time left unknown"
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3_569, "59 min"),
        (3_599, "1 h 0 min"),
        (9_000, "2 h 30 min"),
        (86_399, "1 d 0 h"),
        (300_000, "3 d 11 h"),
    ],
)
def test_durations(seconds: float, told: str) -> None:
    assert batch_stats.duration(seconds) == told


@pytest.mark.parametrize(
    ("value", "told"), [(0, "0"), (0.0042, "0.0042"), (0.5, "0.50"), (2.61, "2.6"), (9.96, "10"), (1234.5, "1234")]
)
def test_amounts(value: float, told: str) -> None:
    assert batch_stats.amount(value) == told
