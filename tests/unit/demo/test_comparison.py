from __future__ import annotations

import math
import random
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.types import Engagement, as_utc
from mindprint_demo.comparison import (
    Change,
    ScoredAnswer,
    bootstrap_interval,
    compare_arms,
    hidden_rule_accuracy,
    majority_accuracy,
    pair_answers,
)

WHEN = as_utc(datetime(2026, 1, 1))


def answers(logprobs: list[float], *, prefix: str = "e") -> list[ScoredAnswer]:
    return [ScoredAnswer(f"{prefix}{n}", value > -0.7, value) for n, value in enumerate(logprobs)]


def test_only_rows_that_both_arms_answered_are_compared() -> None:
    before, after = answers([-1.0, -2.0, -3.0]), answers([-0.5, -0.5, -0.5])
    assert [(b.row, a.row) for b, a in pair_answers(before[:2], after[1:])] == [("e1", "e1")]
    assert pair_answers(before, []) == []


def test_one_user_by_hand() -> None:
    found = compare_arms([pair_answers(answers([-1.0, -2.0]), answers([-0.5, -1.0]))])
    assert found is not None
    assert found.rows == 2
    assert (found.logprob.before, found.logprob.after) == (-1.5, -0.75)
    assert found.logprob.difference == pytest.approx(0.75)
    assert (found.logprob.low, found.logprob.high) == (0.5, 1.0)
    assert (found.accuracy.before, found.accuracy.after) == (0.0, 0.5)


def test_every_user_counts_the_same_however_many_rows() -> None:
    many, few = pair_answers(answers([-1.0] * 9), answers([-1.0] * 9)), pair_answers(answers([-4.0]), answers([-2.0]))
    found = compare_arms([many, few, []])
    assert found is not None
    assert found.rows == 10
    assert found.logprob.difference == pytest.approx(1.0)


def test_without_rows_there_is_nothing_to_compare() -> None:
    assert compare_arms([]) is None
    assert compare_arms([[], []]) is None


def test_the_interval_is_that_of_the_normal_law_where_it_should_be() -> None:
    rng = random.Random(0)
    rows = [rng.gauss(0.3, 1.0) for _ in range(400)]
    low, high = bootstrap_interval([rows])
    mean = sum(rows) / len(rows)
    error = math.sqrt(sum((x - mean) ** 2 for x in rows) / len(rows) / len(rows))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12))
def test_the_interval_lies_within_the_rows(rows: list[float]) -> None:
    low, high = bootstrap_interval([rows], resamples=200)
    assert min(rows) - 1e-9 <= low <= high <= max(rows) + 1e-9


def test_where_nothing_changed_chance_is_not_ruled_out_too_often() -> None:
    rng = random.Random(1)
    sure = 0
    for _ in range(200):
        low, high = bootstrap_interval([[rng.gauss(0, 1) for _ in range(16)] for _ in range(4)], resamples=200)
        sure += low > 0 or high < 0
    assert sure / 200 < 0.12


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.2, "no telling"), (0.0, 0.2, "no telling")],
)
def test_a_verdict_needs_an_interval_without_zero(low: float, high: float, verdict: str) -> None:
    assert Change(0.0, 0.0, low, high).verdict == verdict


def test_the_yardsticks() -> None:
    said = ["a", "b", "b", "c"]
    past = [
        Engagement(id=f"t{n}", prompt="?", response=r, occurred_at=WHEN, choices=["a", "b", "c"])
        for n, r in enumerate(said)
    ]
    rows = [
        HeldOutQuestion("e0", "?", ["a", "b"], "b", WHEN, best="a"),
        HeldOutQuestion("e1", "?", ["a", "c"], "a", WHEN, best="a"),
        HeldOutQuestion("e2", "?", ["a", "b"], "a", WHEN),
    ]
    assert majority_accuracy(UserDataset("u", past, rows)) == pytest.approx(2 / 3)
    assert hidden_rule_accuracy(rows) == 0.5
    assert hidden_rule_accuracy(rows[2:]) is None
