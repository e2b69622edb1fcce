from __future__ import annotations

import math
import random
from dataclasses import asdict
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_outcomes import WAYS, made, outcome, table, unanswered
from mindprint_eval.metrics import statistics
from mindprint_eval.metrics.statistics import (
    COHORT_PAIRS,
    COMPARED_PAIRS,
    Interval,
    bootstrap_interval,
    compare_arms,
    compare_pairs,
    pairs_for,
)
from mindprint_eval.results import Outcome


def answers(arm: str, user: str, logprobs: list[float], seed: int = 0) -> list[Outcome]:
    return [
        outcome(arm=arm, user=user, item=f"e{n}", seed=seed, logprob=value, right=value > -0.7)
        for n, value in enumerate(logprobs)
    ]


def by_user(differences: list[float]) -> pd.DataFrame:
    """A9 over A1 by as much as told, a user each, with one question."""
    rows = [
        row
        for n, value in enumerate(differences)
        for row in answers("A1", f"u{n:03}", [-1.0]) + answers("A9", f"u{n:03}", [-1.0 + value])
    ]
    return table(rows)


# --- interval --------------------------------------------------------------------------


def test_the_interval_is_that_of_the_normal_law_where_it_should_be() -> None:
    values = pd.Series(np.random.default_rng(1).normal(0.3, 1.0, 400))
    found = bootstrap_interval(values)
    error = values.std(ddof=0) / math.sqrt(400)
    assert found.users == 400
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)
    assert bootstrap_interval(values) == found


def test_one_user_alone_has_no_bounds_and_none_has_nothing() -> None:
    one = bootstrap_interval(pd.Series([0.4], index=["ann"]))
    assert (one.mean, one.users) == (0.4, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = bootstrap_interval(pd.Series([], dtype=float))
    assert none.users == 0
    assert math.isnan(none.mean)


def test_users_without_a_figure_are_left_out() -> None:
    assert bootstrap_interval(pd.Series([1.0, math.nan, 3.0])).users == 2


def test_where_users_do_not_differ_the_bounds_are_equal() -> None:
    found = bootstrap_interval(pd.Series([0.1] * 7))
    assert found.mean == pytest.approx(0.1)
    assert found == Interval(found.mean, found.mean, found.mean, 7)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
@settings(max_examples=20)
def test_the_interval_lies_within_the_users(values: list[float]) -> None:
    found = bootstrap_interval(pd.Series(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


# --- compare ---------------------------------------------------------------------------


def test_two_users_by_hand() -> None:
    rows = [
        *answers("A1", "ann", [-1.0, -2.0]), *answers("A9", "ann", [-0.5, -1.0]),
        *answers("A1", "bob", [-1.0]), *answers("A9", "bob", [-2.0]),
    ]  # fmt: skip
    found = compare_arms(table(rows), "A9", "A1", "logprob")
    assert (found.one, found.other, found.metric, found.users, found.items) == ("A9", "A1", "logprob", 2, 3)
    assert found.difference == pytest.approx((0.75 - 1.0) / 2)
    assert (found.low, found.high) == (-1.0, 0.75)
    assert found.p == 1
    assert compare_arms(table(rows), "A9", "A1", "right").difference == pytest.approx(0.25)


def test_every_user_counts_the_same_however_many_questions() -> None:
    rows = [
        *answers("A1", "ann", [-1.0] * 9), *answers("A9", "ann", [-1.0] * 9),
        *answers("A1", "bob", [-4.0]), *answers("A9", "bob", [-2.0]),
    ]  # fmt: skip
    assert compare_arms(table(rows), "A9", "A1", "logprob").difference == pytest.approx(1.0)


def test_seeds_are_averaged_within_a_question() -> None:
    rows = [
        *answers("A1", "ann", [-1.0, -1.0], 0), *answers("A9", "ann", [-2.0, -3.0], 0),
        *answers("A1", "ann", [-1.0], 1), *answers("A9", "ann", [-4.0], 1),
        *answers("A9", "ann", [-99.0], 2),
    ]  # fmt: skip
    found = compare_arms(table(rows), "A9", "A1", "logprob")
    assert found.items == 2
    assert found.difference == pytest.approx(((-1 - 3) / 2 - 2) / 2)


def test_only_what_both_answered_is_compared() -> None:
    rows = [
        *answers("A1", "ann", [-1.0, -5.0]), *answers("A9", "ann", [-0.5]),
        unanswered("refused", arm="A9", item="e1", user="ann", right=False, logprob=-9.0),
        *answers("A1", "bob", [-1.0]), unanswered("no_adapter", arm="A9", user="bob"),
        outcome(arm="A9", user="bob", measure="bare"),
    ]  # fmt: skip
    found = compare_arms(table(rows), "A9", "A1", "logprob")
    assert (found.users, found.items, found.difference) == (1, 1, 0.5)
    assert all(math.isnan(value) for value in (found.low, found.high, found.p, found.smallest))


def test_an_unknown_figure_is_not_compared() -> None:
    rows = table([outcome(arm="copy", logprob=None), outcome(arm="A1")])
    assert compare_arms(rows, "A1", "copy", "logprob").items == 0
    assert compare_arms(rows, "A1", "copy", "right").items == 1


def test_an_arm_that_is_missing() -> None:
    found = compare_arms(table(answers("A1", "ann", [-1.0])), "A9", "A1", "logprob")
    assert (found.users, found.items) == (0, 0)
    assert all(math.isnan(v) for v in (found.difference, found.low, found.high, found.p, found.smallest))
    assert compare_arms(table([]), "A9", "A1", "right").users == 0


def test_differences_that_are_all_the_same() -> None:
    found = compare_arms(by_user([0.5] * 5), "A9", "A1", "logprob")
    assert (found.low, found.high) == (0.5, 0.5)
    assert found.p == pytest.approx(2 / 2**5)
    assert math.isnan(found.smallest)
    assert math.isnan(statistics._smallest(pd.Series([0.1 + 0.2, 0.3, 0.3])))
    nothing = compare_arms(by_user([0.0] * 5), "A9", "A1", "logprob")
    assert (nothing.difference, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)


def test_p_is_the_share_of_sign_flips_that_go_as_far() -> None:
    values = [0.5, -0.2, 0.7, 0.1, 0.4, -0.1]
    means = [np.mean([s * v for s, v in zip(signs, values, strict=True)]) for signs in product((1, -1), repeat=6)]
    exact = 2 * np.mean([mean >= np.mean(values) - 1e-12 for mean in means])
    assert compare_arms(by_user(values), "A9", "A1", "logprob").p == pytest.approx(exact)


def test_many_users() -> None:
    rng = random.Random(0)
    found = compare_arms(by_user([rng.gauss(0.3, 1) for _ in range(300)]), "A9", "A1", "logprob")
    assert 0 < found.p < 0.01
    assert found.low > 0


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=5), st.integers(0, 4), st.integers(2, 6))
@settings(max_examples=20)
def test_asking_a_user_more_of_the_same_changes_nothing(values: list[float], whom: int, times: int) -> None:
    rows = by_user(values)
    user = f"u{whom % len(values):03}"
    more = [rows[rows["user"] == user].assign(item=f"more{n}") for n in range(times)]
    one, other = (
        compare_arms(rows, "A9", "A1", "logprob"),
        compare_arms(pd.concat([rows, *more]), "A9", "A1", "logprob"),
    )
    assert other.items == one.items + times
    assert [other.difference, other.low, other.high, other.p] == pytest.approx(
        [one.difference, one.low, one.high, one.p]
    )


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_the_order_of_rows_and_of_arms(values: list[float], order: random.Random) -> None:
    rows = by_user(values)
    places = list(range(len(rows)))
    order.shuffle(places)
    found, mixed = compare_arms(rows, "A9", "A1", "logprob"), compare_arms(rows.iloc[places], "A9", "A1", "logprob")
    assert asdict(mixed) == pytest.approx(asdict(found), nan_ok=True)
    back = compare_arms(rows, "A1", "A9", "logprob")
    assert back.difference == -found.difference
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))
    assert back.p == pytest.approx(found.p)
    assert back.smallest == pytest.approx(found.smallest, nan_ok=True)


def test_the_smallest_difference_is_shown_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    users = 12
    smallest = compare_arms(by_user(list(rng.normal(0, 1, users))), "A9", "A1", "logprob").smallest
    spread = smallest / 0.8879  # G*Power: d of a paired t test, n = 12, alpha .05, power .8
    assert 0.5 < spread < 1.5
    samples = rng.normal(smallest / spread, 1, (2000, users))
    t = samples.mean(1) / (samples.std(1, ddof=1) / math.sqrt(users))
    assert np.mean(np.abs(t) > 2.201) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("users", [2, 3, 4, 8, 40, 1000])
def test_the_smallest_difference_has_a_solution_for_any_number_of_users(users: int) -> None:
    values = pd.Series([(-1.0) ** n for n in range(users)])
    assert 0 < statistics._smallest(values) < 100


# --- family ----------------------------------------------------------------------------


def test_the_family_is_corrected_within_a_metric() -> None:
    found = compare_pairs(made(items=4))
    assert len(found) == 2 * len(COMPARED_PAIRS)
    assert set(found.columns) == {*asdict(compare_arms(table([]), "A9", "A1", "right")), "p_holm"}
    assert (found["p_holm"] >= found["p"]).all()
    one = found[found["metric"] == "right"]
    assert one["p_holm"].min() == pytest.approx(min(1.0, one["p"].min() * len(COMPARED_PAIRS)))


def test_pairs_that_could_not_be_compared_do_not_count() -> None:
    rows = made(arms=("A1", "A5", "A9"), items=4)
    found = compare_pairs(rows, metrics=("logprob",)).set_index(["one", "other"])
    known = found["p"].notna()
    assert set(found[known].index) == {("A9", "A1"), ("A9", "A5"), ("A5", "A1")}
    assert (found["p_holm"].notna() == known).all()
    assert found["p_holm"].min() == pytest.approx(min(1.0, found["p"].min() * 3))
    assert compare_pairs(table([]))["p_holm"].isna().all()
    assert len(compare_pairs(rows, pairs=())) == 0


def test_the_pairs_are_of_known_arms() -> None:
    assert {arm for pair in COMPARED_PAIRS for arm in pair} <= set(WAYS)
    assert len(set(COMPARED_PAIRS)) == len(COMPARED_PAIRS)


def test_cohort_start_is_compared_only_where_it_was_asked() -> None:
    assert pairs_for(("A1", "A9")) == COMPARED_PAIRS
    assert pairs_for(("A1", "A9", "cohort-A9")) == (*COMPARED_PAIRS, *COHORT_PAIRS)
