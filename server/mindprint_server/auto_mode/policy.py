"""Pure rules of `mode: auto`: whether thinking pays for a user and a kind of question.

The evidence is the gain of a question: log p of the real answer after thinking, minus log p without thinking. Two
sources measure gains. Only those of the model that would answer count:

- The gate measures a user's own version on held-out engagements, after thinking from the bare `<think>` tag. The unit
  is nats, and nats a token for open answers.
- The verifier measures the base model: Gain of unhinted candidates, whatever their verdict, in nats a token. Later
  candidates of an engagement exist only because the first was rejected, so only the first one with a Gain counts. A
  batch skips closed questions whose real answer is unlikely (docs/decisions/006). So the gain is that of the questions
  worth thinking about, and is too high for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from mindprint.types import AutoModeDecision, AutoModeReason, Check, Mode, QueryKind
from mindprint.types.keys import AdapterKey, ModelName
from mindprint_server.gate.checks import thinking_gain_check_name
from mindprint_server.statistics import margin
from mindprint_server.store import Gain

Unit = Literal["nats", "nats a token"]


@dataclass(frozen=True)
class Evidence:
    """Summary of the gains of one user's questions of one kind.

    Attributes:
        items: Number of questions.
        mean: Mean gain; 0 without questions.
        deviation: Standard deviation of the gains; 0 for fewer than two.
        unit: Unit of the gains.
    """

    items: int
    mean: float
    deviation: float
    unit: Unit

    @classmethod
    def from_gains(cls, gains: Sequence[float], unit: Unit) -> Evidence:
        """Summarize gains, one per question."""
        return cls(
            items=len(gains),
            mean=fmean(gains) if gains else 0.0,
            deviation=stdev(gains) if len(gains) > 1 else 0.0,
            unit=unit,
        )

    def lower_bound(self, confidence: float) -> float | None:
        """Return Student's one-sided lower bound of the mean gain; None for fewer than two questions."""
        return self.mean - margin(self.items, self.deviation, confidence) if self.items > 1 else None


@dataclass(frozen=True)
class AutoModeThresholds:
    """When thinking counts as paying.

    Attributes:
        min_items: Number of questions whose gain must be known.
        confidence: One-sided confidence of the lower bound, above 0.5 and below 1.
        min_gain: The lower bound must lie above this, in the unit of the evidence.
    """

    min_items: int
    confidence: float
    min_gain: float


def decide(kind: QueryKind, evidence: Evidence, thresholds: AutoModeThresholds) -> AutoModeDecision:
    """Choose `personal` if the evidence shows, beyond chance, that thinking gains enough; else `direct`.

    Args:
        kind: Kind of the questions, for the explanation.
        evidence: Gains of the model that would answer.
        thresholds: When thinking counts as paying.
    """
    low = evidence.lower_bound(thresholds.confidence)
    mode: Mode = "direct"
    reason: AutoModeReason = "not_shown"
    if low is None or evidence.items < thresholds.min_items:
        reason = "too_few"
        why = f"{kind} questions whose gain is known: {evidence.items}, wanted: {thresholds.min_items}"
    else:
        if low > thresholds.min_gain:
            mode, reason = "personal", "pays"
        why = (
            f"{'thinking pays' if mode == 'personal' else 'not shown to pay'}: mean gain {evidence.mean:+.3f} "
            f"{evidence.unit} on {evidence.items} {kind} questions, with {100 * thresholds.confidence:g} % confidence "
            f"{low:+.3f} at least, above {thresholds.min_gain:g} wanted"
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


def decide_without_evidence(user_id: str | None, model: str) -> AutoModeDecision | None:
    """Choose `direct` where no evidence can exist: no user, a cohort's version, or another user's version.

    Args:
        user_id: The user whose memory is used; None without one.
        model: What would answer: `base`, or the name of a version.

    Returns:
        The decision, or None if there may be evidence.
    """
    key = ModelName(model).key
    if key is not None and key.kind == "cohort":
        return AutoModeDecision(
            mode="direct", reason="cohort", why=f"{model} answers for many users: what thinking gains one is unknown"
        )
    if user_id is None:
        return AutoModeDecision(mode="direct", reason="no_user", why="the request names no user")
    if key not in (None, AdapterKey.user(user_id)):
        return AutoModeDecision(
            mode="direct", reason="other_user", why=f"{model} was measured on its own user's questions"
        )
    return None


def gate_evidence(checks: Iterable[Check], kind: QueryKind) -> Evidence:
    """Read the evidence from the gate's checks of a version. It is empty if the gate did not measure the gain."""
    measured = {check.name: check for check in checks}.get(thinking_gain_check_name(kind))
    unit: Unit = "nats" if kind == "closed" else "nats a token"
    if measured is None or measured.value is None or measured.items is None:
        return Evidence.from_gains([], unit)
    return Evidence(measured.items, measured.value, measured.deviation or 0.0, unit)


def trace_evidence(newest_first: Iterable[Gain], kind: QueryKind) -> Evidence:
    """Summarize the gains of the base model: for each engagement its first candidate among these."""
    firsts = {one.engagement_id: one.gain for one in newest_first if one.closed == (kind == "closed")}
    return Evidence.from_gains(list(firsts.values()), "nats a token")
