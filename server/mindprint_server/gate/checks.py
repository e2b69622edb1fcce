"""From what was measured to what the gate says of it. Pure.

Candidate and reference are measured on the same prompts, so what is judged is the mean of the paired differences. Of a
handful of items two points are less than one item, and a mean wavers by chance alone: a bound counts as crossed only
where the mean lies beyond it by more than its noise (the one-sided Student bound of the mean). Sixteen thinkings refuse
under 4 % of the versions that collapse no more often than the base, whatever its rate, and practically all whose
thinking is gone where the base's is not: differences that all point one way have no noise, however few they are. What
writes a few words and the answer instead of thinking is not collapsed by that definition; its length gives it away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from mindprint.types import Check, QueryKind
from mindprint_server.statistics import noise


@dataclass(frozen=True)
class Thought:
    """One thinking that was written for the gate."""

    text: str
    tokens: int
    """As written; the text may be cut to its last whole sentence."""
    collapsed: bool
    """It loops, never closed, or says next to nothing (`method.md`: Collapse rate)."""


def score(
    name: str,
    candidate: Sequence[float],
    reference: Sequence[float],
    *,
    least: int,
    slack: float,
    confidence: float,
    decides: bool = True,
) -> Check:
    """Personal scores (nats) item by item: fails when the candidate's are lower by more than `slack`, beyond noise.

    `value` is the mean difference, `bound` the lowest that passes. Fewer than `least` items are not judged.
    """
    if len(candidate) < least:
        return Check(name=name, detail=f"{len(candidate)} engagements held out, {least} wanted")
    differences = [a - b for a, b in zip(candidate, reference, strict=True)]
    if not all(map(math.isfinite, differences)):
        return Check(name=name, passed=False, detail="a score is not finite")
    value, bound = fmean(differences), -slack - noise(differences, confidence)
    detail = f"{fmean(candidate):.3f} against {fmean(reference):.3f} nats on {len(candidate)} engagements"
    if not decides:
        return Check(name=name, value=value, bound=bound, detail=f"{detail}; reported only")
    return Check(name=name, value=value, bound=bound, passed=value >= bound, detail=detail)


def thinking_gain(kind: QueryKind, gains: Sequence[float], *, confidence: float) -> Check:
    """How much likelier the candidate finds each real answer after its own thinking than at once: nats, of an open
    answer a token. It decides nothing here: `mode: auto` goes by it."""
    name = thinking_gain_name(kind)
    if not all(map(math.isfinite, gains)):
        return Check(name=name, detail="a score is not finite")
    told = (
        f"give or take {noise(gains, confidence):.3f}" if len(gains) > 1 else "and a single one says nothing of noise"
    )
    return Check(
        name=name,
        value=fmean(gains),
        items=len(gains),
        deviation=stdev(gains) if len(gains) > 1 else None,
        detail=f"mean gain on {len(gains)} engagements, {told}; reported only",
    )


def thinking_gain_name(kind: QueryKind) -> str:
    return f"thinking_gain_{kind}"


def collapse(candidate: Sequence[Thought], base: Sequence[Thought], *, rise: float, confidence: float) -> Check:
    """Collapse rates, 0 to 1: fails when the candidate's is above the base's by more than `rise`, beyond noise."""
    ours, theirs = ([float(t.collapsed) for t in thoughts] for thoughts in (candidate, base))
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    value = fmean(ours)
    # A bound above 1 says that the base collapses too often, or that too little was written, to show any rise.
    bound = min(1.0, fmean(theirs) + rise + noise(differences, confidence))
    detail = f"{sum(ours):.0f} of {len(ours)} thinkings, the base {sum(theirs):.0f}"
    return Check(name="collapse", value=value, bound=bound, passed=value <= bound, detail=detail)


def length_ratio(
    candidate: Sequence[Thought], base: Sequence[Thought], *, least: float, most: float, confidence: float
) -> Check:
    """Median thinking lengths: fails when the candidate's over the base's is outside `least` to `most`, beyond noise.

    The noise is that of the logarithms of the paired ratios: lengths differ by factors.
    """
    ours, theirs = ([t.tokens for t in thoughts] for thoughts in (candidate, base))
    if not median(theirs):
        return Check(name="length_ratio", detail="the base writes no thinking")
    value = median(ours) / median(theirs)
    logs = [math.log(max(a, 1) / max(b, 1)) for a, b in zip(ours, theirs, strict=True)]
    wide = math.exp(noise(logs, confidence))
    bound = least / wide if value < 1 else most * wide
    return Check(
        name="length_ratio",
        value=value,
        bound=bound if math.isfinite(bound) else None,
        passed=least / wide <= value <= most * wide,
        detail=f"median of {median(ours):g} tokens, the base {median(theirs):g}; {least:g} to {most:g} allowed",
    )


def general(candidate: float, base: float, *, drop: float) -> Check:
    """Scores on the general questions, 0 to 100: fails when the candidate's is more than `drop` under the base's."""
    if not math.isfinite(candidate):
        return Check(name="general", passed=False, detail="a score is not finite")
    bound = base - drop
    return Check(
        name="general", value=candidate, bound=bound, passed=candidate >= bound, detail=f"the base has {base:.1f}"
    )
