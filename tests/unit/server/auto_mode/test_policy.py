"""From gains to a mode: what the rule holds to whatever was measured, and where the evidence is read from."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint.types import AutoModeDecision, Check
from mindprint_server.auto_mode.policy import (
    AutoModeThresholds,
    Evidence,
    decide,
    decide_without_evidence,
    gate_evidence,
    trace_evidence,
)
from mindprint_server.gate import checks
from mindprint_server.statistics import margin_of_mean
from mindprint_server.store import Gain

RULE = AutoModeThresholds(min_items=4, confidence=0.9, min_gain=0.0)
gains_of = st.lists(st.floats(-20, 20), max_size=40)
rules = st.builds(AutoModeThresholds, st.integers(2, 20), st.floats(0.55, 0.99), st.floats(0, 2))


def found(gains: list[float], rule: AutoModeThresholds = RULE) -> AutoModeDecision:
    return decide("closed", Evidence.from_gains(gains, "nats"), rule)


# --- the rule ---


@given(gains_of, rules)
def test_it_thinks_just_where_enough_questions_show_beyond_noise_that_it_pays(
    gains: list[float], rule: AutoModeThresholds
) -> None:
    took = found(gains, rule)
    enough = len(gains) >= rule.min_items
    low = fmean(gains) - margin_of_mean(gains, rule.confidence) if len(gains) > 1 else -math.inf
    assert (took.mode == "personal") == (enough and low > rule.min_gain) == (took.reason == "pays")
    assert (took.reason == "too_few") == (not enough)
    assert took.items == len(gains)
    assert took.low is None if len(gains) < 2 else took.low == pytest.approx(low)


@given(gains_of, rules)
def test_it_never_thinks_where_the_mean_gain_is_no_gain(gains: list[float], rule: AutoModeThresholds) -> None:
    if found(gains, rule).mode == "personal":
        assert fmean(gains) > rule.min_gain


@given(gains_of, rules, st.floats(0, 10))
def test_more_gain_never_speaks_against_thinking(gains: list[float], rule: AutoModeThresholds, more: float) -> None:
    if found(gains, rule).mode == "personal":
        assert found([gain + more + 1e-6 for gain in gains], rule).mode == "personal"


@given(gains_of, rules)
def test_what_it_says_can_be_sent(gains: list[float], rule: AutoModeThresholds) -> None:
    took = found(gains, rule)
    assert AutoModeDecision.model_validate_json(took.model_dump_json()) == took


@pytest.mark.parametrize(
    ("gains", "mode", "reason", "why"),
    [
        ([], "direct", "too_few", "closed questions whose gain is known: 0, wanted: 4"),
        ([5.0], "direct", "too_few", "closed questions whose gain is known: 1, wanted: 4"),
        ([5.0] * 3, "direct", "too_few", "closed questions whose gain is known: 3, wanted: 4"),
        ([0.0] * 9, "direct", "not_shown", "not shown to pay: mean gain +0.000 nats on 9 closed questions"),
        ([-1.0] * 9, "direct", "not_shown", "not shown to pay: mean gain -1.000 nats"),
        ([9.0, -8.0, 9.0, -8.0], "direct", "not_shown", "not shown to pay: mean gain +0.500 nats"),
        ([0.5] * 4, "personal", "pays", "thinking pays: mean gain +0.500 nats on 4 closed questions, with 90 % "),
        ([0.4, 0.5, 0.6, 0.5], "personal", "pays", "confidence +0.433 at least, above 0 wanted"),
    ],
)
def test_by_hand(gains: list[float], mode: str, reason: str, why: str) -> None:
    # t(0.9, 3 degrees of freedom) = 1.638; the deviation of the last is 0.0816, over the root of four: 0.0669
    took = found(gains)
    assert (took.mode, took.reason) == (mode, reason)
    assert why in took.why


def test_figures_are_there_only_where_something_was_measured() -> None:
    nothing = found([])
    assert (nothing.items, nothing.mean, nothing.low, nothing.unit) == (0, None, None, None)
    single = found([0.5])
    assert (single.items, single.mean, single.low, single.unit) == (1, 0.5, None, "nats")


def test_a_gain_may_be_asked_for_that_is_worth_the_tokens() -> None:
    assert found([0.2] * 9, AutoModeThresholds(4, 0.9, 0.1)).mode == "personal"
    assert found([0.2] * 9, AutoModeThresholds(4, 0.9, 0.2)).mode == "direct", "above it, not at it"


# --- where there is nothing to go by ---


@pytest.mark.parametrize(
    ("user", "model", "reason"),
    [
        ("ann", "base", None),
        ("ann", "user/ann@2", None),
        ("ann", "cohort/everyone@1", "cohort"),
        (None, "cohort/everyone@1", "cohort"),
        (None, "base", "no_user"),
        ("ann", "user/bob@1", "other_user"),
    ],
)
def test_what_was_not_measured_on_this_user_is_direct(user: str | None, model: str, reason: str | None) -> None:
    took = decide_without_evidence(user, model)
    assert (took and took.reason) == reason
    assert took is None or (took.mode == "direct" and took.why)


# --- evidence of a version ---


def test_the_gates_figures_are_the_evidence_as_it_was_measured() -> None:
    gains = [0.4, 0.5, -0.6, 0.5]
    check = checks.check_thinking_gain("closed", gains, confidence=0.95)
    stored = Check.model_validate_json(check.model_dump_json())
    assert gate_evidence([Check(name="collapse"), stored], "closed") == Evidence.from_gains(gains, "nats")
    assert gate_evidence([stored], "open") == Evidence.from_gains([], "nats a token")


@pytest.mark.parametrize("check", [{}, {"value": 1.0}, {"items": 4}, {"name": "score", "value": 1.0, "items": 4}])
def test_a_version_of_which_nothing_was_measured_has_no_evidence(check: dict[str, Any]) -> None:
    assert gate_evidence([Check.model_validate({"name": "thinking_gain_open"} | check)], "open").items == 0


# --- evidence of the base ---


def test_of_each_engagement_the_first_candidate_counts() -> None:
    newest_first = [
        Gain("e2", True, 0.7), Gain("e1", True, 0.9), Gain("e1", True, 0.1), Gain("e1", True, -0.5),
        Gain("e3", False, 9.0),
    ]  # fmt: skip
    assert trace_evidence(newest_first, "closed") == Evidence.from_gains([0.7, -0.5], "nats a token")
    assert trace_evidence(newest_first, "open") == Evidence.from_gains([9.0], "nats a token")
    assert trace_evidence([], "open") == Evidence.from_gains([], "nats a token")
