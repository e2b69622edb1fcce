from __future__ import annotations

import math
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from mindprint_eval.metrics.statistics import Interval
from mindprint_eval.report.figures import plots, style
from mindprint_eval.report.figures.plots import Point
from mindprint_eval.report.figures.style import ARM_STYLES, SELECTED, UNTRAINED

NAN = math.nan
PAGES = ("#ffffff", "#fdfdfc", "#151618", "#000000")


def point(arm: str, x: float, y: float, spread: float = 0.1) -> Point:
    return Point(arm, style.arm_style(arm, None), Interval(x, NAN, NAN, 0), Interval(y, y - spread, y + spread, 5))


def scatter(*points: Point) -> Figure:
    figure = plots.cost_against_gain(points, "seconds", -1.0)
    assert figure is not None
    return figure


def words(figure: Figure) -> str:
    return style.to_svg(figure, "f", "a plot")


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("look", ARM_STYLES, ids=lambda look: look.name)
@pytest.mark.parametrize("page", PAGES)
def test_marks_stand_out_from_light_and_dark_pages(look: style.ArmStyle, page: str) -> None:
    light, dark = sorted((luminance(look.colour), luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_no_colour_or_shape_stands_for_two_things() -> None:
    assert len({look.marker for look in ARM_STYLES}) == len({look.colour for look in ARM_STYLES}) == len(ARM_STYLES)


def test_the_same_data_make_the_same_bytes() -> None:
    one, other = (words(scatter(point("A1", 1, -1.2), point("A9", 3, -0.4))) for _ in range(2))
    assert one == other
    assert "date" not in one.lower()


def test_an_svg_follows_the_page_around_it() -> None:
    drawn = words(scatter(point("A1", 1, -1.2)))
    assert style.INK not in drawn
    assert "currentColor" in drawn
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") == "a plot"
    assert all(element.get("id", "f-").startswith("f-") for element in root.iter())


def test_an_svg_by_itself_follows_the_viewer() -> None:
    file = style.standalone_svg(words(scatter(point("A1", 1, -1.2))))
    assert "prefers-color-scheme:dark" in file
    ElementTree.fromstring(file.encode())


def test_names_are_shown_as_they_are() -> None:
    assert "a $x_1$ &lt;b&gt;" in words(scatter(point("a $x_1$ <b>", 1, -1.2)))


def test_labels_cover_neither_points_nor_each_other() -> None:
    crowd = [point(f"A{n}", 3 + 0.03 * (n % 3), -0.5 - 0.05 * n, 0.02) for n in range(8)]
    figure = scatter(*crowd)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    # the words alone: an annotation's own extent takes in its leader
    boxes = [super(Annotation, a).get_window_extent() for a in axes.texts if isinstance(a, Annotation)]
    assert len(boxes) == len(crowd)
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
        assert not any(box.contains(*axes.transData.transform((p.x.mean, p.y.mean))) for p in crowd)


def test_points_without_both_figures_are_left_out() -> None:
    assert plots.cost_against_gain([point("A1", NAN, 1)], "seconds") is None
    assert plots.accuracy_against_collapse([]) is None
    drawn = words(scatter(point("A1", NAN, 1), point("A2", 1, 1)))
    assert "A2" in drawn
    assert "A1" not in drawn


def test_the_legend_names_what_is_there() -> None:
    figure = plots.accuracy_against_collapse(
        [Point("A9", SELECTED, Interval(5, 1, 9, 4), Interval(60, 50, 70, 4))], NAN
    )
    assert figure is not None
    drawn = words(figure)
    assert SELECTED.name in drawn
    assert UNTRAINED.name not in drawn
    assert "commonest" not in drawn


def test_looks() -> None:
    looks = [style.arm_style(*a).name for a in (("A3", None), ("A6", "fast"), ("A4", "pooled"), ("A7", "distilled"))]
    assert looks == ["untrained", "trained on answers alone", "trained on answers alone", "the five steps"]
    assert style.arm_style("A9", "selected") == SELECTED
    assert style.arm_style("C3-none", "selected").name == "controls"


def test_profile_swaps() -> None:
    users = pd.DataFrame({"own": [-0.4, -0.6], "none": [-0.5, NAN]}, index=["ann", "bob"])
    means = {"own": Interval(-0.5, -0.6, -0.4, 2), "none": Interval(-0.5, NAN, NAN, 1)}
    figure = plots.profile_swaps(users, means)
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["own", "none"]
    assert plots.profile_swaps(users[["own"]], {"own": means["own"]}) is None


def test_thinking_lengths() -> None:
    figure = plots.thinking_lengths({"A3": [20, 30], "A6": [0], "A7": []}, dict.fromkeys(("A3", "A6", "A7"), UNTRAINED))
    assert figure is not None
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["A3 (n = 2)", "A6 (n = 1)"]
    assert plots.thinking_lengths({"A7": []}, {"A7": UNTRAINED}) is None


def test_the_funnel_prints_its_counts() -> None:
    counts = pd.DataFrame({"unhinted": [7, 5, 2], "hinted": [3, 3, 0]}, index=["candidates", "loop", "accepted"])
    figure = plots.funnel({"selected": counts, "nothing": counts * 0})
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["selected: unhinted", "selected: hinted"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["7", "5", "2"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(counts.index)
    assert plots.funnel({}) is None
