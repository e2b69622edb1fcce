"""Candidates are generated on demand, without a hint first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindprint_server.generation.candidate_policy import CandidateRound, SamplingPolicy, next_round
from mindprint_server.verdicts.verifier import Verdict

POLICY = SamplingPolicy(
    max_candidates=4, candidates_per_round=1, unhinted_candidates=2, hints=True, early_stop_margin_nats=2.0
)
REJECTED = Verdict("rejected", "no", None, "low_gain", {}, shortfall=1.0)
ACCEPTED = replace(REJECTED, label="accepted", reason=None, shortfall=0.0)
FAR = 2.1


def draw(*verdicts: Verdict, **changes: object) -> tuple[list[int], str] | None:
    """The numbers and the kind that come next."""
    found = next_round(verdicts, replace(POLICY, **changes))  # type: ignore[arg-type]
    return None if found is None else (list(found.numbers), "hinted" if found.hinted else "unhinted")


def test_next_round_follows_only_where_none_was_accepted() -> None:
    assert draw() == ([0], "unhinted")
    assert draw(REJECTED) == ([1], "unhinted")
    assert draw(ACCEPTED) is None
    assert draw(REJECTED, REJECTED, ACCEPTED) is None


def test_hinted_rounds_follow_after_unhinted_candidates_failed() -> None:
    assert draw(REJECTED, REJECTED) == ([2], "hinted")
    assert draw(REJECTED, REJECTED, REJECTED) == ([3], "hinted")
    assert draw(REJECTED, REJECTED, REJECTED, REJECTED) is None


def test_without_hints_all_candidates_are_unhinted() -> None:
    assert draw(REJECTED, REJECTED, hints=False) == ([2], "unhinted")
    assert draw(*[REJECTED] * 4, hints=False) is None


def test_large_rounds_end_at_each_bound() -> None:
    assert draw(candidates_per_round=3) == ([0, 1], "unhinted")
    assert draw(REJECTED, REJECTED, candidates_per_round=3) == ([2, 3], "hinted")
    assert draw(candidates_per_round=9, hints=False) == ([0, 1, 2, 3], "unhinted")
    assert draw(*[REJECTED] * 4, unhinted_candidates=9) is None


def test_zero_unhinted_candidates_hints_the_first() -> None:
    assert draw(unhinted_candidates=0) == ([0], "hinted")
    assert draw(REJECTED, unhinted_candidates=0) == ([1], "hinted")
    assert draw(REJECTED, unhinted_candidates=0, candidates_per_round=9) == ([1, 2, 3], "hinted")
    assert draw(unhinted_candidates=0, hints=False) == ([0], "unhinted")
    assert draw(max_candidates=1, unhinted_candidates=3) == ([0], "unhinted")


def test_large_shortfall_stops_early() -> None:
    assert draw(replace(REJECTED, shortfall=FAR)) is None
    assert draw(replace(REJECTED, shortfall=FAR), hints=False) is None
    assert draw(replace(REJECTED, shortfall=2.0)) == ([1], "unhinted")
    assert draw(replace(REJECTED, shortfall=FAR), early_stop_margin_nats=None) == ([1], "unhinted")


def test_large_score_deficit_stops_early() -> None:
    low = replace(REJECTED, shortfall=0.0, deficit=0.3)
    assert draw(low, early_stop_score_margin=0.2) is None
    assert draw(low, early_stop_score_margin=0.3) == ([1], "unhinted")
    assert draw(low) == ([1], "unhinted"), "scores alone do not stop it"
    assert draw(low, early_stop_score_margin=0.2, early_stop_margin_nats=None) is None
    assert draw(low, replace(REJECTED, shortfall=FAR), early_stop_score_margin=0.2) is None
    assert draw(low, REJECTED, early_stop_score_margin=0.2) == ([2], "hinted"), "one came near"
    assert draw(low, replace(low, deficit=0.1), early_stop_score_margin=0.2) == ([2], "hinted")
    assert draw(low, replace(REJECTED, shortfall=None), early_stop_score_margin=0.2) is None


def test_early_stop_reads_the_best_candidate_and_ignores_unscored_ones() -> None:
    far, unscored = replace(REJECTED, shortfall=FAR), replace(REJECTED, shortfall=None)
    assert draw(far, REJECTED) == ([2], "hinted")
    assert draw(REJECTED, replace(REJECTED, shortfall=FAR)) == ([2], "hinted")
    assert draw(unscored) == ([1], "unhinted")
    assert draw(unscored, far) is None


RULE = st.builds(
    SamplingPolicy,
    max_candidates=st.integers(1, 12),
    candidates_per_round=st.integers(1, 12),
    unhinted_candidates=st.integers(0, 12),
    hints=st.booleans(),
    early_stop_margin_nats=st.none() | st.floats(0, 4),
    early_stop_score_margin=st.none() | st.floats(0, 4),
)
FATES = st.lists(
    st.tuples(st.sampled_from([False, False, False, True]), st.none() | st.floats(0, 6), st.none() | st.floats(0, 6)),
    min_size=12,
    max_size=12,
)


@given(RULE, FATES, st.data())
def test_rounds_end_within_their_bounds_whatever_the_verdicts(
    policy: SamplingPolicy, fates: list[tuple[bool, float | None, float | None]], data: st.DataObject
) -> None:
    verdicts: list[Verdict] = []
    rounds: list[CandidateRound] = []
    hinted: list[bool] = []
    while (found := next_round(verdicts, policy)) is not None:
        rounds.append(found)
        assert not any(verdict.label == "accepted" for verdict in verdicts)
        assert found.numbers.start == len(verdicts)
        assert 1 <= len(found.numbers) <= policy.candidates_per_round
        new = [
            replace(ACCEPTED if won else REJECTED, shortfall=shortfall, deficit=deficit)
            for won, shortfall, deficit in (fates[number] for number in found.numbers)
        ]
        if any(verdict.label == "accepted" for verdict in new):  # its siblings are cancelled, unless they were done
            new = [verdict for verdict in new if verdict.label == "accepted" or data.draw(st.booleans())]
        verdicts += new
        hinted += [found.hinted] * len(new)
    kinds = [found.hinted for found in rounds]
    assert kinds[0] is (policy.hints and policy.unhinted_candidates == 0)
    assert kinds == sorted(kinds), "unhinted before hinted"
    assert policy.hints or not any(kinds)
    assert sum(len(found.numbers) for found in rounds) <= policy.max_candidates
    never_stops_early = policy.early_stop_margin_nats is None and policy.early_stop_score_margin is None
    if never_stops_early and not any(verdict.label == "accepted" for verdict in verdicts):
        assert len(verdicts) == policy.max_candidates
        unhinted = min(policy.unhinted_candidates, policy.max_candidates) if policy.hints else policy.max_candidates
        assert hinted.count(False) == unhinted


@pytest.mark.parametrize("hints", [True, False])
def test_accepted_candidate_ends_the_rounds(hints: bool) -> None:
    assert draw(REJECTED, ACCEPTED, hints=hints, candidates_per_round=4) is None
