"""Hypotheses about the method, each with the value that decides it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mindprint_eval.report.table import format_interval, format_number

MIN_COLLAPSE_RISE = 0.20
MAX_COLLAPSE_RISE = 0.05
"""Shares of bare thinking over the untrained base's, from which on it has collapsed, and up to which it is alive."""


@dataclass(frozen=True)
class Hypothesis:
    name: str
    text: str
    value: float | None
    """What is held against `bound`: a share, or an end of an interval in the unit of its metric."""
    bound: float
    holds: bool | None
    """None where it cannot be said: an arm is missing, or one user gives no interval."""
    detail: str


def check_hypotheses(thinking: pd.DataFrame, comparisons: pd.DataFrame) -> list[Hypothesis]:
    """From `metrics.thinking` and `stats.family`."""
    return [*_collapses(thinking), *_answers(comparisons)]


def _collapses(thinking: pd.DataFrame) -> Iterator[Hypothesis]:
    shares = thinking.set_index("arm")["collapse"].dropna()
    for arm, name in (("A6", "A6 collapses"), ("A7", "A7 does not collapse"), ("A9", "A9 does not collapse")):
        should = arm == "A6"
        bound = MIN_COLLAPSE_RISE if should else MAX_COLLAPSE_RISE
        text = f"collapse of {arm} over A3's is {'at least' if should else 'at most'} {bound:.2f}"
        if lacking := [needed for needed in (arm, "A3") if needed not in shares.index]:
            yield Hypothesis(name, text, None, bound, None, f"no bare thinking of {' and '.join(lacking)}")
            continue
        # shares of few questions: without rounding .25 - .05 is less than .2
        value = round(float(shares[arm] - shares["A3"]), 9)
        holds = value >= bound if should else value <= bound
        yield Hypothesis(name, text, value, bound, holds, f"{arm} {shares[arm]:.2f}, A3 {shares['A3']:.2f}")


def _answers(comparisons: pd.DataFrame) -> Iterator[Hypothesis]:
    for other in ("A1", "A3", "A6"):
        yield _ends(comparisons, f"A9 beats {other}", "A9", other, "logprob", "low", "above 0")
    yield _ends(comparisons, "A8 no worse than A5", "A8", "A5", "logprob", "high", "at least 0")
    yield _ends(comparisons, "thinking pays: A9 reaches A5", "A9", "A5", "right", "high", "at least 0")
    yield _ends(comparisons, "failure 1: A2 below A1", "A2", "A1", "logprob", "high", "below 0")


def _ends(
    comparisons: pd.DataFrame,
    name: str,
    one: str,
    other: str,
    metric: str,
    end: Literal["low", "high"],
    where: Literal["above 0", "at least 0", "below 0"],
) -> Hypothesis:
    """Judge a claim about where an interval ends.

    An interval that reaches 0 shows that no harm was seen, not that there is none. The detail says which, and how
    large a harm would have been seen. With few users the interval is too narrow: hence p.
    """
    text = f"{'lower' if end == 'low' else 'upper'} end of the interval of {one} minus {other} ({metric}) is {where}"
    which = [comparisons[column] == value for column, value in (("one", one), ("other", other), ("metric", metric))]
    rows = comparisons[which[0] & which[1] & which[2] & (comparisons["users"] > 0)]
    if rows.empty:
        return Hypothesis(name, text, None, 0.0, None, f"no question that both {one} and {other} answered")
    found = rows.iloc[0]
    value = float(found[end])
    unit = " nats" if metric == "logprob" else ""
    interval = format_interval(found["low"], found["high"], sign=True)
    seen = f"{format_number(found['difference'], sign=True)}{unit} {interval}"
    if math.isnan(value):
        return Hypothesis(
            name, text, None, 0.0, None, f"one user gives no interval: {seen}, {found['items']} questions"
        )
    holds = {"above 0": value > 0, "at least 0": value >= 0, "below 0": value < 0}[where]
    unclear = "not shown worse" if where == "at least 0" else "not told apart"
    verdict = "better" if found["low"] > 0 else "worse" if found["high"] < 0 else unclear
    counts = f"p {found['p_holm']:.3f} after Holm, {found['users']} users, {found['items']} questions"
    if verdict == unclear and not math.isnan(found["smallest"]):
        counts += f", which would show {format_number(found['smallest'])}{unit}"
    return Hypothesis(name, text, value, 0.0, holds, f"{one} {verdict}: {seen}; {counts}")
