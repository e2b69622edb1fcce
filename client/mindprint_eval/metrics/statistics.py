"""Intervals and tests over users.

Users are the random sample, and questions to one user depend on each other. So users are resampled, never questions.
Each user has the same weight, whatever the number of answered questions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, permutation_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from mindprint_eval.metrics.metrics import pair_answers

ComparedMetric = Literal["right", "logprob"]
"""`right`: a share from 0 to 1. `logprob`: nats of the real answer."""
COMPARED_METRICS: tuple[ComparedMetric, ...] = ("right", "logprob")
"""Columns of outcomes by which pairs are compared, fixed beforehand as the pairs are. A new metric is not compared."""
COMPARED_PAIRS = (
    ("A2", "A1"),
    ("A6", "A5"),
    ("A6", "A3"),
    ("A7", "A3"),
    ("A9", "A1"),
    ("A9", "A3"),
    ("A9", "A6"),
    ("A9", "A7"),
    ("A9", "A5"),
    ("A8", "A5"),
    ("A9-direct", "A5"),
    ("C1", "A9"),
    ("C2", "A9"),
    ("C3-nearest", "A9"),
    ("C3-random", "A9"),
    ("C3-none", "A9"),
    ("A5", "A1"),
    ("A5", "A4"),
)
"""Pairs of arms, fixed beforehand: the correction for multiple comparisons counts these."""
COHORT_PAIRS = (("cohort-A9", "A9"), ("cohort-A9", "cohort"), ("cohort-A9", "A4"), ("cohort-A9", "A5"))
"""Further pairs, compared and counted where that arm was run."""
CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean over users with its bounds at `CONFIDENCE`. With one user the bounds are NaN."""

    mean: float
    low: float
    high: float
    users: int


@dataclass(frozen=True)
class ArmComparison:
    """One arm minus another, in the metric's unit. All but the names and counts is NaN where nothing can be paired."""

    one: str
    other: str
    metric: str
    difference: float
    low: float
    high: float
    p: float
    """That the sign of users' differences is chance, two-sided, not corrected. NaN for one user."""
    users: int
    items: int
    """Questions to users; a question that was asked in several seeds is one."""
    smallest: float
    """Difference that this many users, as unlike each other as these are, would show in POWER of all samples, at the
    level of the interval. NaN for one user, or for users who do not differ."""


def bootstrap_interval(values: pd.Series, seed: int = 0) -> Interval:
    """Of figures by user; a user without one (NaN) is left out. Percentile bootstrap over users, the same each time.

    With under ten users it is too narrow: read it beside `p`. Where all figures are equal, so are the bounds.
    """
    known = values.dropna().sort_index().to_numpy(float)
    if len(known) < 2:
        return Interval(float(known[0]) if len(known) else math.nan, math.nan, math.nan, len(known))
    mean = float(known.mean())
    if _alike(known):
        return Interval(mean, mean, mean, len(known))
    found = bootstrap(
        (known,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile", rng=_rng(seed)
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(known))


def compare_arms(table: pd.DataFrame, one: str, other: str, metric: ComparedMetric, seed: int = 0) -> ArmComparison:
    """On the questions that both arms answered: the mean over seeds, then over a user's questions, then over users.

    Raises ValueError if an arm has a question twice.
    """
    pairs = pair_answers(table, one, other, metric)
    items = pairs.groupby(["user", "item"])["difference"].mean()
    users = items.groupby("user").mean()
    mean = bootstrap_interval(users, seed)
    p, smallest = _p(users, seed), _smallest(users)
    return ArmComparison(one, other, metric, mean.mean, mean.low, mean.high, p, len(users), len(items), smallest)


def pairs_for(arms: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs that an evaluation of these arms compares."""
    return COMPARED_PAIRS + tuple(pair for pair in COHORT_PAIRS if pair[0] in arms)


def compare_pairs(
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str]] = COMPARED_PAIRS,
    metrics: Sequence[ComparedMetric] = COMPARED_METRICS,
) -> pd.DataFrame:
    """Compare pairs of arms: one row for each pair and metric, with the fields of ArmComparison and `p_holm`.

    Holm's correction is within a metric, over the pairs that have a p.
    """
    found = [asdict(compare_arms(table, one, other, metric)) for metric in metrics for one, other in pairs]
    frame = pd.DataFrame(found, columns=[field.name for field in fields(ArmComparison)])
    frame["p_holm"] = math.nan
    for _, known in frame.dropna(subset=["p"]).groupby("metric"):
        frame.loc[known.index, "p_holm"] = multipletests(known["p"], alpha=1 - CONFIDENCE, method="holm")[1]
    return frame


def _p(differences: pd.Series, seed: int) -> float:
    """Signs of users are flipped: all ways where there are at most RESAMPLES of them, else as many at random."""
    if len(differences) < 2:
        return math.nan
    values = differences.sort_index().to_numpy(float)
    found = permutation_test(
        (values,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=_rng(seed)
    )
    return float(found.pvalue)


def _smallest(differences: pd.Series) -> float:
    if len(differences) < 2 or _alike(differences.to_numpy(float)):
        return math.nan
    effect = TTestPower().solve_power(nobs=len(differences), alpha=1 - CONFIDENCE, power=POWER)
    return float(differences.std(ddof=1) * effect)


def _alike(values: np.ndarray) -> bool:
    """But for rounding."""
    return math.isclose(values.min(), values.max(), rel_tol=1e-9, abs_tol=1e-12)


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
