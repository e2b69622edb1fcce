"""The health of versions in service: a sliding window of outcomes, and bounds on the bad ones. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Literal

from mindprint.types import REASON_GROUPS, Check

Outcome = Literal["fine", "collapsed", "failed"]
"""Outcome of an answer. `collapsed`: its thinking looped or was empty; the server closes every thinking in service.
`failed`: an error ended it."""
MAX_VERSIONS = 4096
"""Maximum number of versions with a window; the one that answered least recently is dropped first."""


def outcome_of(reason: str | None) -> Outcome:
    """Return the outcome of an answer.

    Args:
        reason: The verifier's reason to reject its thinking; None if there is none.
    """
    return "collapsed" if REASON_GROUPS.get(reason or "") == "collapse" else "fine"


@dataclass
class _Record:
    newest: deque[Outcome]
    fine: int = field(default=0)


class VersionHealth:
    """Watches the outcomes of versions in service.

    A bound is a share of the newest `window` answers; None disables the check.

    Args:
        window: Number of newest answers that count.
        min_answers: Number of answers below which no version is withdrawn.
        max_collapsed: Maximum share of answers whose thinking collapsed.
        max_failed: Maximum share of answers that failed.
    """

    def __init__(self, *, window: int, min_answers: int, max_collapsed: float | None, max_failed: float | None) -> None:
        self._window = window
        self._min_answers = min_answers
        self._bounds: dict[Outcome, float | None] = {"collapsed": max_collapsed, "failed": max_failed}
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def record(self, version: str, outcome: Outcome) -> Check | None:
        """Record the outcome of an answer.

        Args:
            version: Name of the version, `<key>@<number>`.
            outcome: How the answer went.

        Returns:
            A failed check if the answer crosses a bound; the version then starts a new window. Otherwise None.
        """
        record = self._records.setdefault(version, _Record(deque(maxlen=self._window)))
        self._records.move_to_end(version)
        if len(self._records) > MAX_VERSIONS:
            self._records.popitem(last=False)
        record.newest.append(outcome)
        record.fine += outcome == "fine"
        bound = self._bounds.get(outcome)
        count, answers = record.newest.count(outcome), len(record.newest)
        if bound is None or answers < self._min_answers or count / answers <= bound:
            return None
        self.reset(version)
        return Check(
            name=f"service_{outcome}",
            value=count / answers,
            bound=bound,
            passed=False,
            detail=f"{count} of the newest {answers} answers in service",
        )

    def count_fine(self, version: str) -> int:
        """Return the number of good answers of a version since its window started."""
        return self._records[version].fine if version in self._records else 0

    def reset(self, version: str) -> None:
        """Start a new window for a version."""
        self._records.pop(version, None)
