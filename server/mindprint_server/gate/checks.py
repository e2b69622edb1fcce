"""Pure functions that turn the gate's measurements into checks.

The new version and its reference (the base model or the live version) answer the same prompts. So each check looks at
the mean of paired differences. A mean of few items varies by chance. A limit counts as crossed only *beyond chance*:
the one-sided confidence bound of the mean, by Student's t (`statistics.margin_of_mean`), must be over it too.

Sixteen thinking samples refuse less than 4 % of the versions that collapse exactly as often as the base model, whatever
that rate is. They refuse nearly every version that stopped thinking where the base model still thinks: differences that
all have the same value have a margin of 0. Thinking of a few words is not collapsed by this definition. The length
ratio finds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from mindprint.types import Check, QueryKind
from mindprint_server.statistics import margin_of_mean


@dataclass(frozen=True)
class ThinkingSample:
    """One thinking that was generated for the gate.

    Attributes:
        text: The thinking. It may be cut to its last whole sentence.
        tokens: Number of generated tokens, before any cut.
        collapsed: It loops, never ends, or has hardly any words of its own (method: collapse rate).
    """

    text: str
    tokens: int
    collapsed: bool


def check_score(
    name: str,
    scores: Sequence[float],
    reference: Sequence[float],
    *,
    min_items: int,
    slack: float,
    confidence: float,
    decides: bool = True,
) -> Check:
    """Check that the version's personal scores are not lower than the reference's.

    Args:
        name: Name of the check.
        scores: Scores in nats, one per held-out engagement.
        reference: Scores of the base model or the live version on the same engagements.
        min_items: Number of engagements below which nothing is decided.
        slack: Nats by which the mean may be lower, in addition to the margin.
        confidence: One-sided confidence.
        decides: Whether a low mean fails the check, or is only reported.

    Returns:
        A check whose value is the mean difference and whose bound is the lowest mean that passes.
    """
    if len(scores) < min_items:
        return Check(name=name, detail=f"{len(scores)} engagements held out, {min_items} wanted")
    differences = [score - other for score, other in zip(scores, reference, strict=True)]
    if not all(map(math.isfinite, differences)):
        return Check(name=name, passed=False, detail="a score is not finite")
    value, bound = fmean(differences), -slack - margin_of_mean(differences, confidence)
    detail = f"{fmean(scores):.3f} against {fmean(reference):.3f} nats on {len(scores)} engagements"
    if not decides:
        return Check(name=name, value=value, bound=bound, detail=f"{detail}; reported only")
    return Check(name=name, value=value, bound=bound, passed=value >= bound, detail=detail)


def check_thinking_gain(kind: QueryKind, gains: Sequence[float], *, confidence: float) -> Check:
    """Report how much the version's own thinking raises the log-probability of the real answers.

    The check never fails a version. `mode: auto` decides by its figures.

    Args:
        kind: Kind of the questions.
        gains: log p after thinking minus log p without, one per engagement: nats, and nats a token for open answers.
        confidence: One-sided confidence of the margin in the detail.
    """
    name = thinking_gain_check_name(kind)
    if not all(map(math.isfinite, gains)):
        return Check(name=name, detail="a score is not finite")
    spread = (
        f"give or take {margin_of_mean(gains, confidence):.3f}"
        if len(gains) > 1
        else "with a single one, chance cannot be estimated"
    )
    return Check(
        name=name,
        value=fmean(gains),
        items=len(gains),
        deviation=stdev(gains) if len(gains) > 1 else None,
        detail=f"mean gain on {len(gains)} engagements, {spread}; reported only",
    )


def thinking_gain_check_name(kind: QueryKind) -> str:
    """Return the name of the check that reports the thinking gain of a kind of questions."""
    return f"thinking_gain_{kind}"


def check_collapse(
    samples: Sequence[ThinkingSample], base: Sequence[ThinkingSample], *, max_rise: float, confidence: float
) -> Check:
    """Check that the version's thinking does not collapse more often than the base model's.

    Args:
        samples: Thinking samples of the version.
        base: Thinking samples of the base model for the same prompts.
        max_rise: How much the collapse rate may be higher, 0 to 1, in addition to the margin.
        confidence: One-sided confidence.
    """
    ours, theirs = ([float(sample.collapsed) for sample in group] for group in (samples, base))
    differences = [own - other for own, other in zip(ours, theirs, strict=True)]
    value = fmean(ours)
    # A bound above 1 means that no rise could be shown: the base model collapses too often, or samples are too few.
    bound = min(1.0, fmean(theirs) + max_rise + margin_of_mean(differences, confidence))
    detail = f"{sum(ours):.0f} of {len(ours)} thinkings, the base {sum(theirs):.0f}"
    return Check(name="collapse", value=value, bound=bound, passed=value <= bound, detail=detail)


def check_length_ratio(
    samples: Sequence[ThinkingSample],
    base: Sequence[ThinkingSample],
    *,
    min_ratio: float,
    max_ratio: float,
    confidence: float,
) -> Check:
    """Check that the version's thinking is neither much shorter nor much longer than the base model's.

    The margin is computed from the logarithms of the paired ratios, because lengths differ by factors.

    Args:
        samples: Thinking samples of the version.
        base: Thinking samples of the base model for the same prompts.
        min_ratio: Minimum ratio of the median lengths.
        max_ratio: Maximum ratio of the median lengths.
        confidence: One-sided confidence.
    """
    ours, theirs = ([sample.tokens for sample in group] for group in (samples, base))
    if not median(theirs):
        return Check(name="length_ratio", detail="the base writes no thinking")
    value = median(ours) / median(theirs)
    logs = [math.log(max(own, 1) / max(other, 1)) for own, other in zip(ours, theirs, strict=True)]
    factor = math.exp(margin_of_mean(logs, confidence))
    bound = min_ratio / factor if value < 1 else max_ratio * factor
    return Check(
        name="length_ratio",
        value=value,
        bound=bound if math.isfinite(bound) else None,
        passed=min_ratio / factor <= value <= max_ratio * factor,
        detail=(
            f"median of {median(ours):g} tokens, the base {median(theirs):g}; {min_ratio:g} to {max_ratio:g} allowed"
        ),
    )


def check_general(score: float, base: float, *, max_drop: float) -> Check:
    """Check that the version still answers general questions about as well as the base model.

    Args:
        score: Score of the version on the general questions, 0 to 100.
        base: Score of the base model.
        max_drop: Points by which the version may be lower.
    """
    if not math.isfinite(score):
        return Check(name="general", passed=False, detail="a score is not finite")
    bound = base - max_drop
    return Check(name="general", value=score, bound=bound, passed=score >= bound, detail=f"the base has {base:.1f}")
