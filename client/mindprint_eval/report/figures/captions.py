"""The figures of the report with titles and captions. A figure without data says what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from mindprint_eval.arms import ARMS, METHOD_ARMS
from mindprint_eval.metrics import metrics
from mindprint_eval.metrics.statistics import Interval
from mindprint_eval.report.analysis import Analysis, arm_value, mean_over_users
from mindprint_eval.report.figures import plots, style
from mindprint_eval.report.figures.plots import Point
from mindprint_eval.report.tables.provenance import funnel_counts

MEMORIES = {"own": "A9", **metrics.ANCHOR_ARMS}


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report."""

    name: str
    title: str
    caption: str
    drawn: str | None
    """SVG."""
    gap: str = ""
    """Shown in place of a missing figure."""


def report_figures(found: Analysis) -> list[ReportFigure]:
    """Draw all figures of the report, in order."""
    return [collapse(found), swaps(found), lengths(found), funnel(found), cost(found)]


def collapse(found: Analysis) -> ReportFigure:
    points = [
        Point(
            arm,
            _look(arm),
            _wide(_collapse(found, arm), 100),
            _wide(mean_over_users(found.per_user, arm, "accuracy"), 100),
        )
        for arm in found.arms
        if arm in set(found.thinking["arm"])
    ]
    majority = mean_over_users(found.per_user, "majority", "accuracy").mean * 100
    return _plate(
        "collapse",
        "Accuracy against collapse",
        "Up and to the left is better. Lines are 95 % intervals over users." + _absent({p.arm for p in points}),
        plots.accuracy_against_collapse(points, majority),
        "no arm has both answers and thinking from the bare <think>",
    )


def swaps(found: Analysis) -> ReportFigure:
    rows = found.per_user[found.per_user["arm"].isin(MEMORIES.values())].dropna(subset=["logprob"])
    users = rows.pivot_table(index="user", columns="arm", values="logprob")
    there = {name: arm for name, arm in MEMORIES.items() if arm in users.columns}
    absent = [arm for arm in MEMORIES.values() if arm not in there.values()]
    return _plate(
        "swaps",
        "Profile swaps",
        "A9 with the memory of the user, of the nearest other user, of a random one, and without: thin lines are "
        "users, the thick one their mean with its 95 % interval."
        + (f" Not measured: {', '.join(absent)}." if absent else ""),
        plots.profile_swaps(
            users[list(there.values())],
            {name: mean_over_users(found.per_user, arm, "logprob") for name, arm in there.items()},
        ),
        f"fewer than two of {', '.join(MEMORIES.values())} have answers",
    )


def lengths(found: Analysis) -> ReportFigure:
    rows = metrics.select_answered(found.outcomes, "bare")
    by_arm = {arm: [int(n) for n in rows.loc[rows["arm"] == arm, "thinking_tokens"]] for arm in found.arms}
    return _plate(
        "lengths",
        "Length of thinking",
        "Boxes from quartile to quartile, the median thick; whiskers to the 5th and 95th percentile; n thinkings."
        + _absent({arm for arm, tokens in by_arm.items() if tokens}),
        plots.thinking_lengths(by_arm, {arm: _look(arm) for arm in by_arm}),
        "no arm was asked to think from the bare <think>",
    )


def funnel(found: Analysis) -> ReportFigure:
    return _plate(
        "funnel",
        "From candidates to lessons",
        "Each candidate is rejected for one reason, or accepted. Hinted: its writer saw the real answer. Trained: an "
        "adapter of this recipe learned from it.",
        plots.funnel(funnel_counts(found.candidates)),
        "the tables have no candidates",
    )


def cost(found: Analysis) -> ReportFigure:
    points = [
        Point(
            arm,
            _look(arm),
            _exact(arm_value(found.cost, arm, "seconds")),
            mean_over_users(found.per_user, arm, "logprob"),
        )
        for arm in found.arms
        if not arm.startswith("C")
    ]
    return _plate(
        "cost",
        "Cost against gain",
        "Up and to the left is better. Seconds are of the machine, shared by the questions under way; lines are 95 % "
        "intervals over users. Controls, which cost what A9 costs, are left out.",
        plots.cost_against_gain(points, "seconds", mean_over_users(found.per_user, "majority", "logprob").mean),
        "no arm has answers with a known log-probability",
    )


def _plate(name: str, title: str, caption: str, figure: Figure | None, lacks: str) -> ReportFigure:
    drawn = style.to_svg(figure, name, title) if figure is not None else None
    return ReportFigure(name, title, caption, drawn, f"Not measured: {lacks}.")


def _absent(shown: set[str]) -> str:
    thinking = [arm for arm in METHOD_ARMS if ARMS[arm].mode != "direct" and arm not in shown]
    return f" Not measured from the bare <think>: {', '.join(thinking)}." if thinking else ""


def _look(arm: str) -> style.ArmStyle:
    return style.arm_style(arm, ARMS[arm].recipe if arm in ARMS else None)


def _collapse(found: Analysis, arm: str) -> Interval:
    """Of all bare thinkings together, as in the table of arms; its bounds are those of the mean over users."""
    by_user = mean_over_users(found.collapse_by_user, arm, "collapse")
    return Interval(arm_value(found.thinking, arm, "collapse"), by_user.low, by_user.high, by_user.users)


def _wide(found: Interval, scale: float) -> Interval:
    return Interval(found.mean * scale, found.low * scale, found.high * scale, found.users)


def _exact(value: float) -> Interval:
    return Interval(value, float("nan"), float("nan"), 0)
