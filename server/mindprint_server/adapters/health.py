"""Does a version behave in service? A sliding window over its newest answers, and bounds on what may go wrong. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Literal

from mindprint.types import Check

Outcome = Literal["fine", "collapsed", "failed"]
"""How an answer went. `collapsed`: its thinking looped or was empty. `failed`: it broke off where the base did not."""
REMEMBERED = 4096
"""Versions whose windows are kept; those that answered least recently are forgotten first."""


def outcome_of(reason: str | None) -> Outcome:
    """Of a thinking, by what `verdicts` has against it."""
    return "collapsed" if reason in ("loop", "empty") else "fine"


@dataclass
class Record:
    newest: deque[Outcome]
    fine: int = field(default=0)
    """Good answers since the record began."""


class VersionHealth:
    """Bounds are shares of the newest `window` answers, judged from `least` answers on; None is no bound."""

    def __init__(self, *, window: int, least: int, max_collapsed: float | None, max_failed: float | None) -> None:
        self._window = window
        self._least = least
        self._bounds: dict[Outcome, float | None] = {"collapsed": max_collapsed, "failed": max_failed}
        self._records: OrderedDict[str, Record] = OrderedDict()

    def tell(self, version: str, outcome: Outcome) -> Check | None:
        """The bound that this answer made the version pass, if any; then its record begins anew."""
        record = self._records.setdefault(version, Record(deque(maxlen=self._window)))
        self._records.move_to_end(version)
        if len(self._records) > REMEMBERED:
            self._records.popitem(last=False)
        record.newest.append(outcome)
        record.fine += outcome == "fine"
        bound = self._bounds.get(outcome)
        count, answers = record.newest.count(outcome), len(record.newest)
        if bound is None or answers < self._least or count / answers <= bound:
            return None
        self.forget(version)
        return Check(
            name=f"service_{outcome}",
            value=count / answers,
            bound=bound,
            passed=False,
            detail=f"{count} of the newest {answers} answers in service",
        )

    def fine(self, version: str) -> int:
        """Good answers of a version since its record began."""
        return self._records[version].fine if version in self._records else 0

    def forget(self, version: str) -> None:
        self._records.pop(version, None)
