"""From figures to verdicts, and how often chance alone would decide."""

from __future__ import annotations

import math
from itertools import product

import pytest

from mindprint.types import Check
from mindprint_server.gate import checks
from mindprint_server.gate.checks import ThinkingSample
from mindprint_server.statistics import margin_of_mean


def samples(collapsed: int, of: int, tokens: int = 30) -> list[ThinkingSample]:
    return [ThinkingSample("", tokens, n < collapsed) for n in range(of)]


def score(scores: list[float], reference: list[float], *, decides: bool = True) -> Check:
    return checks.check_score(
        "score_vs_base", scores, reference, min_items=4, slack=0.01, confidence=0.95, decides=decides
    )


def collapse(samples: list[ThinkingSample], base: list[ThinkingSample]) -> Check:
    return checks.check_collapse(samples, base, max_rise=0.02, confidence=0.95)


def length_ratio(samples: list[ThinkingSample], base: list[ThinkingSample]) -> Check:
    return checks.check_length_ratio(samples, base, min_ratio=0.6, max_ratio=1.7, confidence=0.95)


# --- personal scores ---


def test_noise_is_students_one_sided_bound_of_the_mean() -> None:
    # t(0.95, 3 degrees of freedom) = 2.353; the standard deviation of 1, 2, 3, 4 is 1.291
    assert margin_of_mean([1, 2, 3, 4], 0.95) == pytest.approx(2.353 * 1.291 / 2, rel=1e-3)
    assert margin_of_mean([1, 1], 0.95) == 0
    assert margin_of_mean([1], 0.95) == math.inf


def test_a_score_that_is_lower_on_every_item_fails() -> None:
    check = score([-2.0, -2.1, -1.9, -2.0], [-1.0, -1.0, -1.0, -1.0])
    assert check.passed is False
    assert check.value == pytest.approx(-1.0)
    assert check.bound == pytest.approx(-0.01 - margin_of_mean([-1.0, -1.1, -0.9, -1.0], 0.95))
    assert check.detail == "-2.000 against -1.000 nats on 4 engagements"


def test_a_score_that_is_lower_by_chance_passes() -> None:
    assert score([-1.0, -3.0, -0.5, -2.0], [-1.5, -1.0, -1.0, -1.0]).passed is True


def test_a_difference_that_is_arithmetic_passes() -> None:
    assert score([-1.005] * 8, [-1.0] * 8).passed is True
    assert score([-1.02] * 8, [-1.0] * 8).passed is False


def test_too_few_items_are_not_judged() -> None:
    check = score([-9.0] * 3, [-1.0] * 3)
    assert (check.passed, check.value, check.detail) == (None, None, "3 engagements held out, 4 wanted")


def test_what_is_only_reported_has_a_figure_and_no_verdict() -> None:
    check = score([-9.0] * 4, [-1.0] * 4, decides=False)
    assert (check.passed, check.value) == (None, -8.0)
    assert check.detail.endswith("reported only")


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_score_that_is_no_number_fails(broken: float) -> None:
    check = score([-1.0, -1.0, -1.0, broken], [-1.0] * 4)
    assert (check.passed, check.value) == (False, None), "neither of them goes into a database"


# --- what thinking gains ---


def test_what_thinking_gains_is_reported_and_decides_nothing() -> None:
    check = checks.check_thinking_gain("closed", [0.5, -0.25, 0.5, 0.25], confidence=0.95)
    assert (check.name, check.passed, check.bound) == ("thinking_gain_closed", None, None)
    assert (check.value, check.items) == (0.25, 4)
    assert check.deviation == pytest.approx(0.3536, abs=1e-4)
    # t(0.95, 3 degrees of freedom) = 2.353
    assert check.detail == "mean gain on 4 engagements, give or take 0.416; reported only"


def test_a_single_gain_has_no_noise_to_tell() -> None:
    check = checks.check_thinking_gain("open", [0.5], confidence=0.95)
    assert (check.name, check.value, check.items, check.deviation) == ("thinking_gain_open", 0.5, 1, None)
    assert "give or take" not in check.detail


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_gain_that_is_no_number_is_not_kept(broken: float) -> None:
    check = checks.check_thinking_gain("open", [1.0, broken], confidence=0.95)
    assert (check.value, check.items, check.passed, check.detail) == (None, None, None, "a score is not finite")


# --- collapse ---


def test_a_collapsed_adapter_is_refused_with_four_items() -> None:
    assert collapse(samples(4, 4), samples(0, 4)).passed is False


@pytest.mark.parametrize("base", range(12))
def test_a_collapsed_adapter_is_refused_wherever_the_base_still_thinks(base: int) -> None:
    assert collapse(samples(16, 16), samples(base, 16)).passed is False


def test_one_or_two_of_sixteen_more_than_the_base_are_noise() -> None:
    for more in (0, 1, 2):
        check = collapse(samples(3 + more, 16), samples(3, 16))
        assert check.passed is True
        assert check.value == (3 + more) / 16
    assert check.detail == "5 of 16 thinkings, the base 3"


def test_two_points_over_the_base_are_the_bound_where_there_is_no_noise() -> None:
    assert collapse(samples(0, 16), samples(0, 16)).bound == pytest.approx(0.02)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
def test_chance_refuses_few_healthy_adapters(rate: float) -> None:
    """Exactly, over all outcomes of sixteen pairs of which each side collapses at the same rate."""
    one_more, one_less = (rate * (1 - rate),) * 2
    refused = 0.0
    for more, less in product(range(17), repeat=2):
        if more + less > 16:
            continue
        ways = math.comb(16, more) * math.comb(16 - more, less)
        chance = ways * one_more**more * one_less**less * (1 - one_more - one_less) ** (16 - more - less)
        # The version collapses on the first `more`, the base on the `less` after them, neither on the rest.
        ours = [ThinkingSample("", 30, n < more) for n in range(16)]
        theirs = [ThinkingSample("", 30, more <= n < more + less) for n in range(16)]
        refused += chance * (collapse(ours, theirs).passed is False)
    assert refused < 0.04


# --- the others ---


@pytest.mark.parametrize(
    ("tokens", "passed", "bound"),
    [(30, True, 1.7), (18, True, 0.6), (17, False, 0.6), (51, True, 1.7), (52, False, 1.7)],
)
def test_length_ratio(tokens: int, passed: bool, bound: float) -> None:
    check = checks.check_length_ratio(
        samples(0, 5, tokens), samples(0, 5, 30), min_ratio=0.6, max_ratio=1.7, confidence=0.95
    )
    assert (check.passed, check.bound, check.value) == (passed, bound, tokens / 30)


def test_lengths_that_waver_need_a_larger_distance() -> None:
    base = [ThinkingSample("", tokens, False) for tokens in (10, 60, 20, 40) * 4]
    shorter = [ThinkingSample("", tokens // 2, False) for tokens in (60, 10, 40, 20) * 4]
    fewer = [ThinkingSample("", 4, False)] * 16
    wavering, gone = (length_ratio(ours, base) for ours in (shorter, fewer))
    assert wavering.value == 0.5
    assert (wavering.passed, gone.passed) == (True, False)


def test_no_length_ratio_to_a_base_that_writes_nothing() -> None:
    check = length_ratio(samples(0, 5), samples(5, 5, 0))
    assert (check.passed, check.detail) == (None, "the base writes no thinking")


@pytest.mark.parametrize(("general", "passed"), [(60.0, True), (37.0, True), (36.9, False), (math.nan, False)])
def test_general(general: float, passed: bool) -> None:
    assert checks.check_general(general, 40.0, max_drop=3.0).passed is passed
