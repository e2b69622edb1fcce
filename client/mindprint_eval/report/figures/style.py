"""How every plot of the report looks, where its labels stand, and how it becomes SVG: the same bytes each time.

Lines and letters take the colour of the text around them (`currentColor`); marks have colours that stand out from a
white and from a dark page alike, and a shape of their own, so that colour never says anything alone.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

INK = "#010203"
"""Stands for the colour of the text until the SVG is written."""
QUIET = "#7f7f7f"
WIDTH = 7.0
"""Inches: 504 pt, shown on a page 700 px wide."""
STYLE: dict[str, Any] = {
    "svg.hashsalt": "mindprint",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": QUIET,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
COLOR_SCHEME_CSS = "<style>svg{color:#1c1c1c}@media(prefers-color-scheme:dark){svg{color:#dcdcdc}}</style>"
"""For an SVG that is opened by itself: no page around it says what colour text has."""


@dataclass(frozen=True)
class ArmStyle:
    name: str
    colour: str
    marker: str


UNTRAINED = ArmStyle("untrained", "#7f7f7f", "o")
FAST = ArmStyle("trained on answers alone", "#d55e00", "s")
DISTILLED = ArmStyle("the five steps", "#3a82c4", "^")
SELECTED = ArmStyle("our selection", "#009068", "D")
CONTROL = ArmStyle("controls", "#b565a0", "X")
ARM_STYLES = (UNTRAINED, FAST, DISTILLED, SELECTED, CONTROL)


def arm_style(arm: str, recipe: str | None) -> ArmStyle:
    """By what the arm's adapter learned from; controls (C1 to C3) stand apart whatever it was."""
    if arm.startswith("C"):
        return CONTROL
    if recipe in ("selected", "cohort", "cohort-first"):
        return SELECTED
    return {None: UNTRAINED, "distilled": DISTILLED}.get(recipe, FAST)


def new_figure(height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Create a figure of `height` inches. Call it, and draw, inside `style()`."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def figure_style() -> Any:
    return matplotlib.rc_context(STYLE)


def to_svg(figure: Figure, name: str, title: str) -> str:
    """One `<svg>` to stand in a page: no header, ids that begin with `name`, the title for those who cannot see it."""
    written = io.StringIO()
    with figure_style():
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    drawn = written.getvalue()
    drawn = drawn[drawn.index("<svg") :].rstrip()
    drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace(INK, "currentColor")
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def standalone_svg(drawn: str) -> str:
    """Return a drawing as the text of an SVG file. Its colours follow the viewer's light or dark."""
    end = drawn.index(">") + 1
    return f'<?xml version="1.0" encoding="utf-8"?>\n{drawn[:end]}\n {COLOR_SCHEME_CSS}{drawn[end:]}\n'


@dataclass(frozen=True)
class PointLabel:
    """A point to be labelled, with the ends of its interval lines, in the units of the axes."""

    text: str
    x: float
    y: float
    lines: Sequence[tuple[float, float, float, float]] = ()
    """From (x, y) to (x, y)."""


SIDES = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
"""Where a label may stand, in this order: right, above right, ..."""


def place_labels(axes: Axes, marks: Sequence[PointLabel]) -> None:
    """Each text beside its point where it covers no point, line or other text; far ones get a leader.

    Limits of the axes must be set. Where there is no free place, the text stands in the last one tried.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # constrained layout moves the axes when it is first drawn
    unit = figure.dpi / 72
    taken = [box for mark in marks for box in _covered(axes, mark, unit)]
    inside = axes.get_window_extent()
    for mark in sorted(marks, key=lambda m: (m.y, m.x)):
        middle = axes.transData.transform((mark.x, mark.y))
        size = len(mark.text) * 5.3 * unit, 9 * unit
        for radius, side in itertools.product((1.0, 2.0, 3.2, 4.6), SIDES):
            dx, dy = _offset(radius, side, size, unit)
            box = Bbox.from_bounds(middle[0] + dx - size[0] / 2, middle[1] + dy - size[1] / 2, *size)
            if _within(box, inside) and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        axes.annotate(
            mark.text,
            (mark.x, mark.y),
            xytext=(dx / unit, dy / unit),
            textcoords="offset points",
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.6} if radius > 1 else None,
        )


def _offset(radius: float, side: tuple[int, int], size: tuple[float, float], unit: float) -> tuple[float, float]:
    """From the point to the middle of the text; its near edge or corner is about `radius` x 7 pt away."""
    away = radius * unit * (7 if 0 in side else 4.5)
    return side[0] * (away + size[0] / 2), side[1] * (away + size[1] / 2)


def _covered(axes: Axes, mark: PointLabel, unit: float) -> Iterable[Bbox]:
    to_pixels = axes.transData.transform
    x, y = to_pixels((mark.x, mark.y))
    yield Bbox.from_extents(x - 4 * unit, y - 4 * unit, x + 4 * unit, y + 4 * unit)
    for x0, y0, x1, y1 in mark.lines:
        (left, low), (right, high) = to_pixels((min(x0, x1), min(y0, y1))), to_pixels((max(x0, x1), max(y0, y1)))
        yield Bbox.from_extents(left - unit, low - unit, right + unit, high + unit)


def _within(box: Bbox, other: Bbox) -> bool:
    return bool(other.x0 <= box.x0 and box.x1 <= other.x1 and other.y0 <= box.y0 and box.y1 <= other.y1)
