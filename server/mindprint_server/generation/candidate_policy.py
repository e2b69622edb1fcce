"""How many candidates an engagement gets, and of which kind: drawn on demand, blind before hinted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import mean

from mindprint.types import Engagement


@dataclass(frozen=True)
class SamplingPolicy:
    most: int
    """Candidates that one engagement gets at most (K)."""
    at_once: int
    """Candidates drawn at once; more only where none was accepted."""
    blind: int
    """Of these, how many before the writer is shown the answer; 0: it is shown from the first one on."""
    hints: bool
    """Whether the writer is ever shown the answer."""
    give_up: float | None
    """Nats by which the real answer may trail the likeliest choice. Where every candidate so far was further off, here
    or by its scores, the engagement is given up: others hardly ever make up for it (docs/decisions/006). None: any."""
    give_up_score: float | None = None
    """Nats a token by which Gain or Anchor may be under its bound. None: any."""


@dataclass(frozen=True)
class CandidateOutcome:
    """What became of one candidate."""

    accepted: bool
    hinted: bool
    shortfall: float | None = None
    """Nats by which the real answer trails the likeliest choice; None where that was never scored."""
    below: float | None = None
    """Nats a token by which the score that rejected it is under its bound; None where none did."""


@dataclass(frozen=True)
class CandidateRound:
    numbers: range
    """Of the candidates to write now, counted from the engagement's first one."""
    hinted: bool


def next_round(written: Sequence[CandidateOutcome], rules: SamplingPolicy) -> CandidateRound | None:
    """What to write next for one engagement; None when it is done."""
    done = len(written)
    if done >= rules.most or any(outcome.accepted for outcome in written) or _hopeless(written, rules):
        return None
    blind = min(rules.blind, rules.most) if rules.hints else rules.most
    hinted = done >= blind
    return CandidateRound(range(done, min(done + rules.at_once, rules.most if hinted else blind)), hinted)


def _hopeless(written: Sequence[CandidateOutcome], rules: SamplingPolicy) -> bool:
    """Whether even the best of these came nowhere near. Of what was never scored nothing is known."""
    far = [_far(outcome, rules) for outcome in written]
    return True in far and False not in far


def _far(outcome: CandidateOutcome, rules: SamplingPolicy) -> bool | None:
    if outcome.below is not None:
        return rules.give_up_score is not None and outcome.below > rules.give_up_score
    if outcome.shortfall is None:
        return None
    return rules.give_up is not None and outcome.shortfall > rules.give_up


def answer_frequency(
    answer: str, choices: Collection[str], recalled: Sequence[Engagement], past: Sequence[Engagement]
) -> float | None:
    """The mean of two shares (0 to 1) of `answer`: among the `recalled` engagements, and among all of the `past`.

    Only engagements with the same choices count. Where none of the past has them, nothing can be said: None.
    """
    among = set(choices)
    shares = [
        mean(engagement.response == answer for engagement in alike)
        for engagements in (recalled, past)
        if (alike := [engagement for engagement in engagements if set(engagement.choices or ()) == among])
    ]
    return mean(shares) if shares else None
