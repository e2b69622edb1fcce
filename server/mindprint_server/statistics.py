"""TODO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from scipy.special import stdtrit


def noise(differences: Sequence[float], confidence: float) -> float:
    """How far the mean of these may lie from its true value on one side; infinite for a single one."""
    return math.inf if len(differences) < 2 else margin(len(differences), stdev(differences), confidence)


def margin(count: int, deviation: float, confidence: float) -> float:
    """The same of two or more, by their standard deviation."""
    return float(stdtrit(count - 1, confidence)) * deviation / math.sqrt(count)
