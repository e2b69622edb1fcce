"""The plots of the report: plain data in, a matplotlib figure out, None where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mindprint_eval.metrics.statistics import Interval
from mindprint_eval.report.figures import style
from mindprint_eval.report.figures.style import ARM_STYLES, INK, QUIET, ArmStyle, PointLabel


@dataclass(frozen=True)
class Point:
    """One arm; an interval without bounds is drawn as the point alone."""

    arm: str
    look: ArmStyle
    x: Interval
    y: Interval


def accuracy_against_collapse(points: Sequence[Point], majority: float | None = None) -> Figure | None:
    """Both in percent. `majority`: accuracy of always giving the user's commonest answer, in percent."""
    return _scatter(points, "collapsed thinkings, bare <think>, %", "accuracy, %", majority, whole=True)


def cost_against_gain(points: Sequence[Point], unit: str, majority: float | None = None) -> Figure | None:
    """Plot log-probabilities of the real answer, in nats. `unit` is what x counts: one question."""
    return _scatter(points, f"{unit} a question", "log-probability of the real answer, nats", majority)


def profile_swaps(users: pd.DataFrame, means: Mapping[str, Interval]) -> Figure | None:
    """Log-probability (nats) before each memory: a thin line a user, the mean over users with its interval.

    `users` has a row a user and a column a memory; both have only the memories that were measured.
    """
    if len(means) < 2:
        return None
    with style.figure_style():
        figure, (axes,) = style.new_figure(3.0)
        places = range(len(means))
        for _, line in users.iterrows():
            axes.plot(places, line.to_numpy(), color=QUIET, linewidth=0.6, alpha=0.6)
        for place, mean in zip(places, means.values(), strict=True):
            _interval_lines(axes, place, mean.mean, None, mean, INK, 1.6)
        axes.plot(places, [m.mean for m in means.values()], color=INK, marker="o", markersize=5, linewidth=1.4)
        axes.set_xticks(places, list(means))
        axes.set_xlim(-0.4, len(means) - 0.6)
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("whose memory stands in the prompt of A9")
        axes.set_ylabel("log-probability, nats")
    return figure


def thinking_lengths(lengths: Mapping[str, Sequence[int]], looks: Mapping[str, ArmStyle]) -> Figure | None:
    """Tokens of every bare thinking: a box from quartile to quartile, whiskers to the 5th and 95th percentile."""
    measured = {arm: tokens for arm, tokens in lengths.items() if len(tokens)}
    if not measured:
        return None
    with style.figure_style():
        figure, (axes,) = style.new_figure(0.8 + 0.34 * len(measured))
        boxes = axes.boxplot(
            list(measured.values()),
            orientation="horizontal",
            whis=(5, 95),
            widths=0.55,
            patch_artist=True,
            boxprops={"edgecolor": INK, "linewidth": 0.7},
            medianprops={"color": INK, "linewidth": 2},
            whiskerprops={"color": INK, "linewidth": 0.7},
            capprops={"color": INK, "linewidth": 0.7},
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "none", "markerfacecolor": QUIET},
        )
        for arm, box in zip(measured, boxes["boxes"], strict=True):
            box.set_facecolor(looks[arm].colour)
            box.set_alpha(0.75)
        names = [f"{arm} (n = {len(tokens)})" for arm, tokens in measured.items()]
        axes.set_yticks(range(1, len(names) + 1), names)
        axes.invert_yaxis()
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("thinking from the bare <think>, tokens")
    return figure


def funnel(counts: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Draw a row of panels for each recipe. Its frame has a row a stage, in order: columns `unhinted` and `hinted`."""
    counts = {recipe: frame for recipe, frame in counts.items() if frame.to_numpy().sum()}
    if not counts:
        return None
    with style.figure_style():
        stages = [len(frame) for frame in counts.values()]
        height = 0.5 * len(counts) + 0.22 * sum(stages)
        figure, panels = style.new_figure(height, 2, len(counts), sharex="row", sharey="row", height_ratios=stages)
        for row, (recipe, frame) in enumerate(counts.items()):
            for axes, column in zip(panels[2 * row : 2 * row + 2], ("unhinted", "hinted"), strict=True):
                _bars(axes, frame[column], f"{recipe}: {column}")
    return figure


def _bars(axes: Axes, counts: pd.Series[int], title: str) -> None:
    places = range(len(counts))
    ends = {
        "candidates": style.UNTRAINED.colour,
        "accepted": style.SELECTED.colour,
        "trained": style.SELECTED.colour,
    }
    colours = [ends.get(str(stage), style.FAST.colour) for stage in counts.index]
    bars = axes.barh(places, counts.to_numpy(), color=colours, height=0.7)
    axes.bar_label(bars, [str(count) for count in counts], padding=3)
    axes.set_yticks(places, [str(stage) for stage in counts.index])
    axes.tick_params(axis="y", length=0)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title, loc="left")


def _scatter(
    points: Sequence[Point], x_label: str, y_label: str, majority: float | None, *, whole: bool = False
) -> Figure | None:
    """`whole`: the x axis holds all of 0 to 100 percent."""
    points = [p for p in points if not math.isnan(p.x.mean) and not math.isnan(p.y.mean)]
    if not points:
        return None
    with style.figure_style():
        figure, (axes,) = style.new_figure(3.9)
        for point in points:
            _interval_lines(axes, point.x.mean, point.y.mean, point.x, point.y, point.look.colour, 0.9)
            axes.plot(point.x.mean, point.y.mean, point.look.marker, color=point.look.colour, markersize=6)
        axes.margins(0.08, 0.12)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        marks = [PointLabel(p.arm, p.x.mean, p.y.mean, _ends(p)) for p in points]
        if majority is not None and not math.isnan(majority):
            axes.axhline(majority, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        furthest = max(p.x.mean for p in points)
        axes.set_xlim(*((-4, 104) if whole else (-0.04 * furthest, 1.1 * furthest)))
        _legend(axes, points, majority)
        style.place_labels(axes, marks)
    return figure


def _legend(axes: Axes, points: Sequence[Point], majority: float | None) -> None:
    for shown in (one for one in ARM_STYLES if any(p.look == one for p in points)):
        axes.plot([], [], shown.marker, color=shown.colour, label=shown.name)
    if majority is not None and not math.isnan(majority):
        axes.plot([], [], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), label="always the commonest answer")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handletextpad=0.4)


def _interval_lines(
    axes: Axes, x: float, y: float, across: Interval | None, up: Interval | None, colour: str, width: float
) -> None:
    if across is not None and not math.isnan(across.low):
        axes.plot([across.low, across.high], [y, y], color=colour, linewidth=width)
    if up is not None and not math.isnan(up.low):
        axes.plot([x, x], [up.low, up.high], color=colour, linewidth=width)


def _ends(point: Point) -> list[tuple[float, float, float, float]]:
    x, y = point.x, point.y
    across = [(x.low, y.mean, x.high, y.mean)] if not math.isnan(x.low) else []
    up = [(x.mean, y.low, x.mean, y.high)] if not math.isnan(y.low) else []
    return across + up
