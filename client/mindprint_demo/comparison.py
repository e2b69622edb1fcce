"""Compare answers to held-out questions before and after training, with bootstrap intervals."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from mindprint.datasets import HeldOutQuestion, UserDataset

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ScoredAnswer:
    """One held-out question as one arm answered it."""

    row: str
    right: bool
    logprob: float
    """Of the user's real answer among the choices, in nats."""
    profile_version: int | None = None


@dataclass(frozen=True)
class Change:
    """A mean before and after over the same rows, and the interval of the difference."""

    before: float
    after: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval leaves out zero, else `no telling`."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no telling"


@dataclass(frozen=True)
class Comparison:
    """Both arms on the rows that both answered."""

    rows: int
    accuracy: Change
    logprob: Change


AnswerPair = tuple[ScoredAnswer, ScoredAnswer]


def pair_answers(before: Iterable[ScoredAnswer], after: Iterable[ScoredAnswer]) -> list[AnswerPair]:
    """Return the rows that both arms answered, in the order of the first."""
    found = {answer.row: answer for answer in after}
    return [(answer, found[answer.row]) for answer in before if answer.row in found]


def compare_arms(users: Sequence[Sequence[AnswerPair]]) -> Comparison | None:
    """Return the mean over users of each user's mean over rows. None without any row.

    The interval is a paired bootstrap over rows within each user, so it speaks for these users, not for others.
    """
    users = [rows for rows in users if rows]
    if not users:
        return None
    return Comparison(
        rows=sum(map(len, users)),
        accuracy=_change([[(float(b.right), float(a.right)) for b, a in rows] for rows in users]),
        logprob=_change([[(b.logprob, a.logprob) for b, a in rows] for rows in users]),
    )


def _change(users: Sequence[Sequence[tuple[float, float]]]) -> Change:
    low, high = bootstrap_interval([[after - before for before, after in rows] for rows in users])
    return Change(
        before=fmean(fmean(before for before, _ in rows) for rows in users),
        after=fmean(fmean(after for _, after in rows) for rows in users),
        low=low,
        high=high,
    )


def bootstrap_interval(
    users: Sequence[Sequence[float]], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Bounds of the macro mean of paired differences: a bootstrap at LEVEL, the same each time."""
    rng = random.Random(seed)
    means = sorted(fmean(fmean(rng.choices(rows, k=len(rows))) for rows in users) for _ in range(resamples))
    tail = round((1 - CONFIDENCE) / 2 * resamples)
    return means[tail], means[-1 - tail]


def majority_accuracy(user: UserDataset) -> float:
    """Accuracy of always giving the answer, among a row's choices, that the user gave most often before."""
    counts = Counter(engagement.response for engagement in user.engagements)
    return _share(
        max(row.choices or (), key=lambda choice: counts[choice], default=None) == row.target for row in user.held_out
    )


def hidden_rule_accuracy(rows: Sequence[HeldOutQuestion]) -> float | None:
    """Accuracy of the user's own rule without noise: what could be reached. None where the rule is not known."""
    known = [row for row in rows if row.best is not None]
    return _share(row.best == row.target for row in known) if known else None


def _share(hits: Iterable[bool]) -> float:
    return fmean(map(float, hits))
