"""The report's tables of claims and of arms. Pure."""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd

from mindprint_eval.arms import ARMS, BARE_THINKING_ARMS, GENERAL_QUESTION_ARMS, METHOD_ARMS
from mindprint_eval.metrics import metrics
from mindprint_eval.metrics.metrics import DIRECT_REFERENCE, Metric, scores_by_user
from mindprint_eval.report.analysis import Analysis, arm_value, mean_over_users
from mindprint_eval.report.table import (
    NOT_APPLICABLE_CELL,
    NOT_MEASURED_CELL,
    Cell,
    RowGroup,
    Table,
    format_interval,
    make_columns,
    mean_cell,
    number_cell,
    text_cell,
)

RESULT_WORDS = {True: "held", False: "did not hold", None: "cannot be said"}


def claims_table(found: Analysis) -> Table:
    rows = [
        [
            text_cell(claim.name),
            Cell(RESULT_WORDS[claim.holds]),
            text_cell(claim.text),
            number_cell(claim.value, 3, sign=True),
            text_cell(claim.detail),
        ]
        for claim in found.claims
    ]
    titles = ("claim", "the tables say", "what must hold", "value", "in full")
    heads = make_columns(*titles, texts=("the tables say", "what must hold", "in full"))
    return Table("Claims", heads, [RowGroup("", rows)])


def arms_table(found: Analysis) -> Table:
    heads = make_columns(
        "arm", "what", *(metric.heading for metric in _metrics_of("arms")), "Gain, nats a token", "collapse, bare, %",
        "length ratio", "general score, %", "thinking tokens", "seconds", "missing", texts=("what",),
    )  # fmt: skip
    groups = [
        RowGroup("", [_arm(found, arm) for arm in found.arms]),
        RowGroup("Baselines, which use no language model", [_arm(found, baseline) for baseline in found.baselines]),
    ]
    return Table("Arms", heads, [group for group in groups if group.rows], _arm_notes(found))


def _arm(found: Analysis, arm: str) -> list[Cell]:
    known = ARMS.get(arm)
    thinks = known is not None and known.mode != "direct"
    model = arm not in found.baselines
    own = found.per_user[found.per_user["arm"] == arm]
    asked = int((own["items"] + own["missing"]).sum())
    return [
        text_cell(arm),
        text_cell(found.whats.get(arm)),
        *(_metric_cell(found.per_user, arm, metric) for metric in _metrics_of("arms")),
        mean_cell(mean_over_users(found.gains, arm, "gain"), 3, sign=True)
        if arm in DIRECT_REFERENCE
        else NOT_APPLICABLE_CELL,
        _collapse(found, arm) if thinks else NOT_APPLICABLE_CELL,
        number_cell(arm_value(found.thinking, arm, "length_ratio")) if thinks else NOT_APPLICABLE_CELL,
        _general(found, arm) if model else NOT_APPLICABLE_CELL,
        number_cell(arm_value(found.cost, arm, "thinking_tokens"), 0) if thinks else NOT_APPLICABLE_CELL,
        number_cell(arm_value(found.cost, arm, "seconds")) if model else NOT_APPLICABLE_CELL,
        text_cell(f"{int(own['missing'].sum())} of {asked}") if asked else NOT_MEASURED_CELL,
    ]


def _metrics_of(table: Literal["arms", "kinds"]) -> list[Metric]:
    return [metric for metric in metrics.METRICS if metric.table == table]


def _metric_cell(frame: pd.DataFrame, arm: str, metric: Metric, *, has_interval: bool = True) -> Cell:
    """Return the mean over users, with its interval where both the metric and the table have one."""
    if arm in metric.excluded_arms:
        return NOT_APPLICABLE_CELL
    mean = mean_over_users(frame, arm, metric.name)
    if has_interval and metric.has_interval:
        return mean_cell(mean, metric.digits, scale=metric.scale, sign=metric.sign)
    return number_cell(mean.mean, metric.digits, scale=metric.scale, sign=metric.sign)


def _collapse(found: Analysis, arm: str) -> Cell:
    """Collapse over all bare thinkings, with the interval of its mean over users: users have as many each."""
    by_user = mean_over_users(found.collapse_by_user, arm, "collapse")
    below = format_interval(by_user.low, by_user.high, 1, scale=100) if by_user.users > 1 else "one user"
    return number_cell(arm_value(found.thinking, arm, "collapse"), 1, scale=100, below=below)


def _general(found: Analysis, arm: str) -> Cell:
    """Return the score on general questions: the arm's, or that of an arm with the same adapter."""
    known = ARMS.get(arm)
    same = [other for other in GENERAL_QUESTION_ARMS if known is not None and ARMS[other].recipe == known.recipe]
    for other in dict.fromkeys([arm, *same]):
        score = arm_value(found.general, other, "score")
        if not math.isnan(score):
            return number_cell(score, 1, below="" if other == arm else f"as {other}")
    return NOT_MEASURED_CELL


def _arm_notes(found: Analysis) -> list[str]:
    absent = [arm for arm in METHOD_ARMS if arm not in found.arms]
    bare = [arm for arm in found.arms if arm in ARMS and ARMS[arm].mode != "direct" and arm not in BARE_THINKING_ARMS]
    notes = [
        "Means over users of each user's mean over questions and seeds; below them 95 % intervals, a bootstrap over "
        "users. An arm that lacks a user's answers is a mean over the others: arms are compared below, on the same "
        "questions. Gain is over the same adapter answering at once. Collapse and length ratio are of thinking from "
        "the bare <think>; the ratio is to A3's median. General score: probability of the right answers to fixed "
        "questions about nobody. Thinking tokens and seconds are means a question; seconds are of the machine, shared "
        f"by the questions under way. A dash ({NOT_APPLICABLE_CELL.text}) means that a measure does not apply."
    ]
    if bare:
        notes.append(f"The bare <think> is not asked of {', '.join(bare)}: not measured.")
    if absent:
        notes.append(f"Arms of the method that were not run, and are not measured: {', '.join(absent)}.")
    if not found.baselines:
        notes.append("Baselines without a language model: not measured.")
    return notes


def seen_table(found: Analysis) -> Table:
    """Questions that the user was asked before, and new ones."""
    said = found.answers["seen"].astype(object)
    seen, new = (found.answers[said.map(lambda one, way=way: one is way).astype(bool)] for way in (True, False))
    parts = [scores_by_user(seen), scores_by_user(new)]
    by_name = {metric.name: metric for metric in metrics.METRICS}
    shown = [by_name[name] for name in ("accuracy", "logprob")]
    rows = [
        [text_cell(arm), *(_metric_cell(part, arm, metric) for metric in shown for part in parts)]
        for arm in [*found.arms, *found.baselines]
    ]
    known = len(seen) + len(new)
    return Table(
        "Questions that were put to the user before, and new ones",
        make_columns("arm", "accuracy, seen, %", "accuracy, new, %", "log-probability, seen", "log-probability, new"),
        [RowGroup("", rows)] if known else [],
        [f"{len(seen)} questions were seen and {len(new)} new, over all arms and seeds."],
        "Not measured: the records do not say which questions were put to the user before.",
    )


def kinds_table(found: Analysis) -> Table:
    """Build the table of the metrics that only ratings, open answers and rankings have."""
    shown = [metric for metric in _metrics_of("kinds") if found.per_user[metric.name].notna().any()]
    if not any(metric.shows_alone for metric in shown):
        shown = []
    rows = [
        [text_cell(arm), *(_metric_cell(found.per_user, arm, metric, has_interval=False) for metric in shown)]
        for arm in [*found.arms, *found.baselines]
    ]
    note = "A rating that is no number on the scale counts as the farthest from the real one."
    return Table(
        "Ratings, open answers and rankings",
        make_columns("arm", *(metric.title for metric in shown)),
        [RowGroup("", rows)] if shown else [],
        [note] if any(metric.name == "mae" for metric in shown) else [],
        "All questions have closed choices; these measures do not apply.",
    )
