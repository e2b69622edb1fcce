"""The report's tables of claims and of arms. Pure."""

from __future__ import annotations

import math

import pandas as pd

from mindprint_eval.arms import ARMS, BARE_THINKING_ARMS, GENERAL_QUESTION_ARMS, METHOD_ARMS
from mindprint_eval.metrics.metrics import ALL_KINDS, DIRECT_REFERENCE, METRICS, scores_by_user
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
        "arm", "what", "accuracy, %", "macro-F1", "log-probability, nats", "Gain, nats a token", "collapse, bare, %",
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
        mean_cell(mean_over_users(found.per_user, arm, "accuracy"), 1, scale=100),
        number_cell(mean_over_users(found.per_user, arm, "macro_f1").mean),
        _logprob(found.per_user, arm),
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


def _logprob(frame: pd.DataFrame, arm: str) -> Cell:
    return (
        NOT_APPLICABLE_CELL if arm == "copy" else mean_cell(mean_over_users(frame, arm, "logprob"))
    )  # it gives an answer, no probability


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
    rows = [
        [
            text_cell(arm),
            *(mean_cell(mean_over_users(part, arm, "accuracy"), 1, scale=100) for part in parts),
            *(_logprob(part, arm) for part in parts),
        ]
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


KIND_METRICS = tuple(metric for metric in METRICS if metric.table == "kinds")


def kinds_table(found: Analysis) -> Table:
    """Build the table of the metrics that only ratings, open answers and rankings have."""
    shown = [metric for metric in KIND_METRICS if found.per_user[metric.name].notna().any()]
    # A log-probability a token alone says nothing that the table of arms does not say.
    if all(metric.kinds == ALL_KINDS for metric in shown):
        shown = []
    rows = [
        [
            text_cell(arm),
            *(number_cell(mean_over_users(found.per_user, arm, metric.name).mean, metric.digits) for metric in shown),
        ]
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
