"""Candidates are drawn on demand, blind before hinted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.generation.candidate_policy import CandidateOutcome, CandidateRound, SamplingPolicy, next_round

RULES = SamplingPolicy(most=4, at_once=1, blind=2, hints=True, give_up=2.0)
BLIND = CandidateOutcome(accepted=False, hinted=False, shortfall=1.0)
HINTED = CandidateOutcome(accepted=False, hinted=True, shortfall=1.0)
GOOD = CandidateOutcome(accepted=True, hinted=False, shortfall=0.0)
FAR = 2.1


def draw(*written: CandidateOutcome, **changes: object) -> tuple[list[int], str] | None:
    """The numbers and the kind that come next."""
    found = next_round(written, replace(RULES, **changes))  # type: ignore[arg-type]
    return None if found is None else (list(found.numbers), "hinted" if found.hinted else "blind")


def test_more_are_drawn_only_where_none_was_accepted() -> None:
    assert draw() == ([0], "blind")
    assert draw(BLIND) == ([1], "blind")
    assert draw(GOOD) is None
    assert draw(BLIND, BLIND, replace(HINTED, accepted=True)) is None


def test_hints_come_after_the_blind_ones_failed() -> None:
    assert draw(BLIND, BLIND) == ([2], "hinted")
    assert draw(BLIND, BLIND, HINTED) == ([3], "hinted")
    assert draw(BLIND, BLIND, HINTED, HINTED) is None


def test_without_hints_all_are_blind() -> None:
    assert draw(BLIND, BLIND, hints=False) == ([2], "blind")
    assert draw(*[BLIND] * 4, hints=False) is None


def test_many_at_once_stop_at_each_bound() -> None:
    assert draw(at_once=3) == ([0, 1], "blind")
    assert draw(BLIND, BLIND, at_once=3) == ([2, 3], "hinted")
    assert draw(at_once=9, hints=False) == ([0, 1, 2, 3], "blind")
    assert draw(*[BLIND] * 4, blind=9) is None


def test_with_none_blind_the_first_is_hinted() -> None:
    assert draw(blind=0) == ([0], "hinted")
    assert draw(HINTED, blind=0) == ([1], "hinted")
    assert draw(HINTED, blind=0, at_once=9) == ([1, 2, 3], "hinted")
    assert draw(blind=0, hints=False) == ([0], "blind")
    assert draw(most=1, blind=3) == ([0], "blind")


def test_a_hopeless_engagement_is_given_up() -> None:
    assert draw(replace(BLIND, shortfall=FAR)) is None
    assert draw(replace(BLIND, shortfall=FAR), hints=False) is None
    assert draw(replace(BLIND, shortfall=2.0)) == ([1], "blind")
    assert draw(replace(BLIND, shortfall=FAR), give_up=None) == ([1], "blind")


def test_scores_far_under_their_bound_are_as_hopeless() -> None:
    low = replace(BLIND, shortfall=0.0, below=0.3)
    assert draw(low, give_up_score=0.2) is None
    assert draw(low, give_up_score=0.3) == ([1], "blind")
    assert draw(low) == ([1], "blind"), "it is not given up for scores"
    assert draw(low, give_up_score=0.2, give_up=None) is None
    assert draw(low, replace(BLIND, shortfall=FAR), give_up_score=0.2) is None
    assert draw(low, BLIND, give_up_score=0.2) == ([2], "hinted"), "one came near"
    assert draw(low, replace(low, below=0.1), give_up_score=0.2) == ([2], "hinted")
    assert draw(low, replace(BLIND, shortfall=None), give_up_score=0.2) is None


def test_the_best_candidate_decides_and_the_unscored_say_nothing() -> None:
    far, unscored = replace(BLIND, shortfall=FAR), replace(BLIND, shortfall=None)
    assert draw(far, BLIND) == ([2], "hinted")
    assert draw(BLIND, replace(HINTED, shortfall=FAR)) == ([2], "hinted")
    assert draw(unscored) == ([1], "blind")
    assert draw(unscored, far) is None


RULE = st.builds(
    SamplingPolicy,
    most=st.integers(1, 12),
    at_once=st.integers(1, 12),
    blind=st.integers(0, 12),
    hints=st.booleans(),
    give_up=st.none() | st.floats(0, 4),
    give_up_score=st.none() | st.floats(0, 4),
)
FATES = st.lists(
    st.tuples(st.sampled_from([False, False, False, True]), st.none() | st.floats(0, 6), st.none() | st.floats(0, 6)),
    min_size=12,
    max_size=12,
)


@given(RULE, FATES, st.data())
def test_whatever_becomes_of_them_drawing_ends_within_its_bounds(
    rules: SamplingPolicy, fates: list[tuple[bool, float | None, float | None]], data: st.DataObject
) -> None:
    written: list[CandidateOutcome] = []
    draws: list[CandidateRound] = []
    while (found := next_round(written, rules)) is not None:
        draws.append(found)
        assert not any(outcome.accepted for outcome in written)
        assert found.numbers.start == len(written)
        assert 1 <= len(found.numbers) <= rules.at_once
        outcomes = [
            CandidateOutcome(won, found.hinted, *scores) for won, *scores in (fates[number] for number in found.numbers)
        ]
        if any(outcome.accepted for outcome in outcomes):  # its brothers end, unless they were done
            outcomes = [o for o in outcomes if o.accepted or data.draw(st.booleans())]
        written += outcomes
    kinds = [draw.hinted for draw in draws]
    assert kinds[0] is (rules.hints and rules.blind == 0)
    assert kinds == sorted(kinds), "blind before hinted"
    assert rules.hints or not any(kinds)
    assert sum(len(draw.numbers) for draw in draws) <= rules.most
    if not any(outcome.accepted for outcome in written) and rules.give_up is None and rules.give_up_score is None:
        assert len(written) == rules.most, "nothing is given up"
        blind = sum(not outcome.hinted for outcome in written)
        assert blind == (min(rules.blind, rules.most) if rules.hints else rules.most)


@pytest.mark.parametrize("hints", [True, False])
def test_an_accepted_one_ends_it_at_once(hints: bool) -> None:
    assert draw(BLIND, GOOD, hints=hints, at_once=4) is None
