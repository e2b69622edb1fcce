"""The one-sided confidence bound of a mean, by Student's t distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from scipy.special import stdtrit


def margin_of_mean(values: Sequence[float], confidence: float) -> float:
    """Return how far the mean of a sample may lie from the true mean, on one side.

    Args:
        values: The sample. A single value has an infinite margin.
        confidence: One-sided confidence, above 0.5 and below 1.
    """
    return math.inf if len(values) < 2 else margin(len(values), stdev(values), confidence)


def margin(count: int, deviation: float, confidence: float) -> float:
    """Return the margin of a mean from summary figures: t(confidence, count - 1) * deviation / sqrt(count).

    Args:
        count: Size of the sample, at least 2.
        deviation: Standard deviation of the sample.
        confidence: One-sided confidence, above 0.5 and below 1.
    """
    return float(stdtrit(count - 1, confidence)) * deviation / math.sqrt(count)
