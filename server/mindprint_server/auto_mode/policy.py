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

from mindprint.types import AutoModeDecision, Check, Mode, QueryKind, RouteReason
from mindprint_server.gate.checks import thinking_gain_name
from mindprint_server.statistics import margin
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


def route(kind: QueryKind, evidence: Evidence, rule: Rule) -> AutoModeDecision:
    """`personal` where enough questions show, beyond noise, that thinking gains more than `rule.min_gain`."""
    low = evidence.low(rule.confidence)
    mode: Mode = "direct"
    reason: RouteReason = "not_shown"
    if low is None or evidence.items < rule.min_items:
        reason = "too_few"
        why = f"{kind} questions whose gain is known: {evidence.items}, wanted: {rule.min_items}"
    else:
        if low > rule.min_gain:
            mode, reason = "personal", "pays"
        why = (
            f"{'thinking pays' if mode == 'personal' else 'not shown to pay'}: mean gain {evidence.mean:+.3f} "
            f"{evidence.unit} on {evidence.items} {kind} questions, with {100 * rule.confidence:g} % confidence "
            f"{low:+.3f} at least, above {rule.min_gain:g} wanted"
        )
    return AutoModeDecision(
        mode=mode,
        reason=reason,
        why=why,
        items=evidence.items,
        mean=evidence.mean if evidence.items else None,
        low=low,
        unit=evidence.unit if evidence.items else None,
    )


def unmeasured(user_id: str | None, model: str) -> AutoModeDecision | None:
    """The route where there is nothing to go by; None where there may be. `model`: `base`, or a version's name."""
    key = model.partition("@")[0]
    if key.startswith("cohort/"):
        return AutoModeDecision(
            mode="direct", reason="cohort", why=f"{model} answers for many users: what thinking gains one is unknown"
        )
    if user_id is None:
        return AutoModeDecision(mode="direct", reason="nobody", why="no user is asked about")
    if key not in ("base", f"user/{user_id}"):
        return AutoModeDecision(
            mode="direct", reason="other_user", why=f"{model} was measured on its own user's questions"
        )
    return None


def examined(checks: Iterable[Check], kind: QueryKind) -> Evidence:
    """What the gate measured of a version; nothing where it was not examined, or before this was measured."""
    found = {check.name: check for check in checks}.get(thinking_gain_name(kind))
    unit: Unit = "nats" if kind == "closed" else "nats a token"
    if found is None or found.value is None or found.items is None:
        return Evidence.of([], unit)
    return Evidence(found.items, found.value, found.deviation or 0.0, unit)


def judged(newest_first: Iterable[Gain], kind: QueryKind) -> Evidence:
    """What the verdicts measured of the base model: of each engagement the first candidate among these."""
    firsts = {one.engagement_id: one.gain for one in newest_first if one.closed == (kind == "closed")}
    return Evidence.of(list(firsts.values()), "nats a token")
