"""A table of the report as its template sees it: texts, with gaps that say whether something was not measured. Pure."""

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
    text: str
    below: str = ""
    """What belongs to the text and stands under it: an interval, a count."""
    gap: bool = False


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = True


@dataclass(frozen=True)
class RowGroup:
    """Rows that belong together; the heading is empty where the first group needs none."""

    heading: str
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """The first cell of a row names it. A table without rows is a stated gap: `empty` in place of the notes."""

    caption: str
    columns: list[Column]
    groups: list[RowGroup]
    notes: list[str] = field(default_factory=list)
    empty: str = f"{NOT_MEASURED.capitalize()}: the tables have no rows of this."

    @property
    def rows(self) -> int:
        return sum(len(group.rows) for group in self.groups)

    def classes(self, place: int, cell: Cell) -> str | None:
        """Names for the style sheet, None for none."""
        return " ".join(["num"] * self.columns[place].numeric + ["gap"] * cell.gap) or None


NOT_MEASURED_CELL = Cell(NOT_MEASURED, gap=True)
NOT_APPLICABLE_CELL = Cell("\N{EN DASH}")
"""Where a measure does not apply: the thinking of an arm that does not think."""


def text_cell(value: object, below: str = "") -> Cell:
    return Cell(str(value), below) if value is not None and value != "" else NOT_APPLICABLE_CELL


def format_number(value: float | None, digits: int = 2, *, scale: float = 1.0, sign: bool = False) -> str:
    """With a true minus, and none before a zero."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    shown = f"{round(value * scale, digits) + 0.0:{'+' if sign else ''},.{digits}f}"
    return shown.replace("-", MINUS)


def number_cell(
    value: float | None, digits: int = 2, *, scale: float = 1.0, sign: bool = False, below: str = ""
) -> Cell:
    if value is None or math.isnan(value):
        return NOT_MEASURED_CELL
    return Cell(format_number(value, digits, scale=scale, sign=sign), below)


def format_interval(low: float, high: float, digits: int = 2, *, scale: float = 1.0, sign: bool = False) -> str:
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    ends = (format_number(end, digits, scale=scale, sign=sign) for end in (low, high))
    return f"[{', '.join(ends)}]"


def mean_cell(found: Interval, digits: int = 2, *, scale: float = 1.0, sign: bool = False) -> Cell:
    """With its interval under it."""
    below = format_interval(found.low, found.high, digits, scale=scale, sign=sign) if found.users > 1 else "one user"
    return number_cell(found.mean, digits, scale=scale, sign=sign, below=below)


def p_value_cell(p: float | None) -> Cell:
    """To three digits, as p values are read."""
    if p is None or math.isnan(p):
        return NOT_MEASURED_CELL
    return Cell("< 0.001" if p < 0.001 else f"{p:.3f}")


def make_columns(*titles: str, texts: Sequence[str] = ()) -> list[Column]:
    """All numeric but the first and those named in `texts`."""
    return [Column(title, numeric=place > 0 and title not in texts) for place, title in enumerate(titles)]
