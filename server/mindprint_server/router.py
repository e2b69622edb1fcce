"""Does thinking pay? What `mode: auto` makes of the gains that were measured on one user's questions. Pure.

A gain is the log-probability of the real answer after thinking, less that of the same answer given at once. Two sources
know some, and only the one of the model that would answer counts:

- the gate, of a user's own version: on the user's held-out engagements, after the version's own thinking from the bare
  `<think>`; in nats, of open answers a token;
- the verdicts, of the base model: Gain, in nats a token, of what was written blind, whatever became of it. Later
  candidates of an engagement are drawn only where the first was rejected, so that the first one with a Gain counts.
  A batch leaves out what its probe finds out of reach (docs/decisions/006): of closed questions this is the gain on
  those worth thinking about, and flatters the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from mindprint.types import Check, QueryKind, Route
from mindprint_server.gate.checks import margin, thinking_gain_name
from mindprint_server.store import Gain

Unit = Literal["nats", "nats a token"]


@dataclass(frozen=True)
class Evidence:
    """The gains of one user's questions of one kind, one for each question, as far as their mean and its noise go."""

    items: int
    mean: float
    deviation: float
    unit: Unit

    @classmethod
    def of(cls, gains: Sequence[float], unit: Unit) -> Evidence:
        return cls(
            items=len(gains),
            mean=fmean(gains) if gains else 0.0,
            deviation=stdev(gains) if len(gains) > 1 else 0.0,
            unit=unit,
        )

    def low(self, confidence: float) -> float | None:
        """Student's one-sided lower bound of the mean; None of fewer than two."""
        return self.mean - margin(self.items, self.deviation, confidence) if self.items > 1 else None


@dataclass(frozen=True)
class Rule:
    min_items: int
    confidence: float
    min_gain: float
    """In the unit of the evidence."""


def route(kind: QueryKind, evidence: Evidence, rule: Rule) -> Route:
    """`personal` where enough questions show, beyond noise, that thinking gains more than `rule.min_gain`."""
    low = evidence.low(rule.confidence)
    pays = low is not None and low > rule.min_gain
    found = f"{evidence.items} {kind} questions"
    if low is None or evidence.items < rule.min_items:
        return _route(evidence, low, f"the gain of thinking is known of {found}, {rule.min_items} wanted")
    figures = (
        f"on {found} thinking made the real answer likelier by {evidence.mean:+.3f} {evidence.unit} on average, "
        f"{low:+.3f} at least ({rule.confidence:.0%} confidence)"
    )
"""
