"""Tables of the report as the templates see them: formatted texts, with marks for what was not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindprint_eval.metrics.statistics import Interval

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A formatted cell."""

    text: str
    below: str = ""
    """Shown under the text: an interval or a count."""
    gap: bool = False


@dataclass(frozen=True)
class Column:
    """A column heading."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class RowGroup:
    """Rows that belong together; the heading may be empty."""

    heading: str
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """A table. The first cell names its row. Without rows, `empty` is shown in place of the notes."""

    caption: str
    columns: list[Column]
    groups: list[RowGroup]
    notes: list[str] = field(default_factory=list)
    empty: str = f"{NOT_MEASURED.capitalize()}: the tables have no rows of this."

    @property
    def rows(self) -> int:
        """Number of rows in all groups."""
        return sum(len(group.rows) for group in self.groups)

    def classes(self, place: int, cell: Cell) -> str | None:
        """Return the CSS classes of a cell, or None."""
        return " ".join(["num"] * self.columns[place].numeric + ["gap"] * cell.gap) or None


NOT_MEASURED_CELL = Cell(NOT_MEASURED, gap=True)
NOT_APPLICABLE_CELL = Cell("\N{EN DASH}")
"""For a measure that does not apply, as thinking of an arm that answers directly."""


def text_cell(value: object, below: str = "") -> Cell:
    """Build a cell of text; None or an empty text gives a dash."""
    return Cell(str(value), below) if value is not None and value != "" else NOT_APPLICABLE_CELL


def format_number(value: float | None, digits: int = 2, *, scale: float = 1.0, sign: bool = False) -> str:
    """Format a number with a true minus sign, and none before a zero.

    Args:
        value: The number; None or NaN gives `not measured`.
        digits: Digits after the point.
        scale: Factor, as 100 for percent.
        sign: Whether positive numbers get a plus sign.
    """
    if value is None or math.isnan(value):
        return NOT_MEASURED
    shown = f"{round(value * scale, digits) + 0.0:{'+' if sign else ''},.{digits}f}"
    return shown.replace("-", MINUS)


def number_cell(
    value: float | None, digits: int = 2, *, scale: float = 1.0, sign: bool = False, below: str = ""
) -> Cell:
    """Build a cell of a number.

    Args:
        value: The number; None or NaN gives `not measured`.
        digits: Digits after the point.
        scale: Factor, as 100 for percent.
        sign: Whether positive numbers get a plus sign.
        below: Text under the number.
    """
    if value is None or math.isnan(value):
        return NOT_MEASURED_CELL
    return Cell(format_number(value, digits, scale=scale, sign=sign), below)


def format_interval(low: float, high: float, digits: int = 2, *, scale: float = 1.0, sign: bool = False) -> str:
    """Format the bounds of an interval; NaN gives `no interval`.

    Args:
        low: Lower bound.
        high: Upper bound.
        digits: Digits after the point.
        scale: Factor, as 100 for percent.
        sign: Whether positive numbers get a plus sign.
    """
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    ends = (format_number(end, digits, scale=scale, sign=sign) for end in (low, high))
    return f"[{', '.join(ends)}]"


def mean_cell(found: Interval, digits: int = 2, *, scale: float = 1.0, sign: bool = False) -> Cell:
    """Build a cell of a mean with its interval under it.

    Args:
        found: The mean over users and its interval.
        digits: Digits after the point.
        scale: Factor, as 100 for percent.
        sign: Whether positive numbers get a plus sign.
    """
    below = format_interval(found.low, found.high, digits, scale=scale, sign=sign) if found.users > 1 else "one user"
    return number_cell(found.mean, digits, scale=scale, sign=sign, below=below)


def p_value_cell(p: float | None) -> Cell:
    """Build a cell of a p value with three digits."""
    if p is None or math.isnan(p):
        return NOT_MEASURED_CELL
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}")


def make_columns(*titles: str, texts: Sequence[str] = ()) -> list[Column]:
    """Build columns: all are numeric but the first and those named in `texts`."""
    return [Column(title, numeric=place > 0 and title not in texts) for place, title in enumerate(titles)]
