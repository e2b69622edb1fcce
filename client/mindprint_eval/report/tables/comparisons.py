"""The report's tables of differences, between arms, memories and thinkings, and what the sample can show. Pure."""

from __future__ import annotations

import math

import pandas as pd

from mindprint_eval.arms import PERTURBED_ARMS, REVERSED_ARMS
from mindprint_eval.metrics.metrics import select_answered
from mindprint_eval.metrics.statistics import Interval, bootstrap_interval, pairs_for
from mindprint_eval.report.analysis import Analysis, arm_value
from mindprint_eval.report.table import (
    MINUS,
    NOT_MEASURED_CELL,
    Cell,
    RowGroup,
    Table,
    format_number,
    make_columns,
    mean_cell,
    number_cell,
    p_value_cell,
    text_cell,
)

RELEVANT_DIFFERENCE = {"right": 0.05, "logprob": 0.10}
"""A difference that would matter to whoever uses it: of accuracy, and of log-probability in nats."""
PAIR_QUESTIONS = {
    ("A2", "A1"): "failure 1: does generic thinking harm?",
    ("A6", "A5"): "failure 2: does thinking harm after answers alone?",
    ("A6", "A3"): "is it worse than before training?",
    ("A7", "A3"): "does the paper's method help thinking?",
    ("A9", "A1"): "against the prompt alone",
    ("A9", "A3"): "does our method help thinking?",
    ("A9", "A6"): "against answers alone, both thinking",
    ("A9", "A7"): "does the selection help?",
    ("A9", "A5"): "does thinking pay?",
    ("A8", "A5"): "is answering at once kept?",
    ("A9-direct", "A5"): "is answering at once kept?",
    ("C1", "A9"): "is it the person?",
    ("C2", "A9"): "is it the content of the thinking?",
    ("C3-nearest", "A9"): "the nearest other user's memory",
    ("C3-random", "A9"): "a random other user's memory",
    ("C3-none", "A9"): "no memory",
    ("A5", "A1"): "does training on answers help?",
    ("A5", "A4"): "the user against the task",
    ("cohort-A9", "A9"): "does the cohort first help?",
    ("cohort-A9", "cohort"): "the user against the cohort",
    ("cohort-A9", "A4"): "the user against the task",
    ("cohort-A9", "A5"): "does thinking pay?",
}


def pair_label(one: str, other: str) -> str:
    return f"{one} {MINUS} {other}"


def comparison_table(found: Analysis) -> Table:
    heads = make_columns(
        "arms", "asks", "accuracy, points", "p (Holm)", "smallest", "log-probability, nats", "p (Holm)", "smallest",
        "users", "questions", texts=("asks",),
    )  # fmt: skip
    rows, absent = [], []
    for one, other in pairs_for(found.arms):
        right, logprob = (_pair(found.comparisons, one, other, metric) for metric in ("right", "logprob"))
        if not max(right["users"], logprob["users"]):
            absent.append(pair_label(one, other))
            continue
        rows.append(
            [
                text_cell(pair_label(one, other)),
                text_cell(PAIR_QUESTIONS[one, other]),
                *_compared(right, 1, 100.0),
                *_compared(logprob, 2, 1.0),
                text_cell(int(max(right["users"], logprob["users"]))),
                text_cell(int(max(right["items"], logprob["items"]))),
            ]
        )
    notes = [
        "Difference of the means over users with its 95 % interval (bootstrap over users); p of a sign-flip test over "
        "users, by Holm's correction within a column. Smallest: the difference that this many users, as unlike each "
        "other as these, would show in 80 % of samples at 5 %, two-sided; less than that cannot be told from nothing."
    ]
    if absent:
        notes.append(f"Not measured, for want of questions that both answered: {', '.join(absent)}.")
    return Table(
        "Named pairs of arms, on the questions that both answered",
        heads,
        [RowGroup("", rows)],
        notes,
        "Not measured: no named pair of arms answered the same questions.",
    )


def _pair(comparisons: pd.DataFrame, one: str, other: str, metric: str) -> pd.Series:
    named = (comparisons["one"] == one) & (comparisons["other"] == other) & (comparisons["metric"] == metric)
    return comparisons[named].iloc[0]


def _compared(row: pd.Series, digits: int, scale: float) -> list[Cell]:
    found = Interval(row["difference"], row["low"], row["high"], row["users"])
    if not found.users:
        return [NOT_MEASURED_CELL, NOT_MEASURED_CELL, NOT_MEASURED_CELL]
    cannot = text_cell("cannot be said")
    return [
        mean_cell(found, digits, scale=scale, sign=True),
        cannot if math.isnan(row["p_holm"]) else p_value_cell(row["p_holm"]),
        cannot if math.isnan(row["smallest"]) else number_cell(row["smallest"], digits, scale=scale),
    ]


def anchor_table(found: Analysis) -> Table:
    means = found.anchors.groupby("user")[["nearest", "random", "none"]].mean()
    told = {name: bootstrap_interval(means[name].astype(float)) for name in means.columns}
    rows = [
        [text_cell(name), mean_cell(value, 3, sign=True), text_cell(value.users)]
        for name, value in told.items()
        if not math.isnan(value.mean)
    ]
    return Table(
        "Anchor: Gain of A9 before the user's own memory, over that before another",
        make_columns("instead of the own memory", "Anchor, nats a token", "users"),
        [RowGroup("", rows)] if rows else [],
        [],
        "Not measured: A9 and at least one of C3-nearest, C3-random and C3-none must have answered the same questions.",
    )


def faithfulness_table(found: Analysis) -> Table:
    changes = {
        "early_end": "cut to its first half",
        "filler": "replaced by fillers",
        "other_trace": "another question's",
    }
    there = set(found.faithfulness["arm"])
    absent = [arm for arm in PERTURBED_ARMS if arm not in there]
    rows = [
        [
            text_cell(arm),
            text_cell(found.whats.get(arm)),
            *(number_cell(arm_value(found.faithfulness, arm, name), 1, scale=100) for name in changes),
            text_cell(int(arm_value(found.faithfulness, arm, "items"))),
            text_cell(int(arm_value(found.faithfulness, arm, "missing"))),
        ]
        for arm in [*found.arms, *sorted(there - set(found.arms))]
        if arm in there
    ]
    notes = ["Where the share is high, the answer follows from the thinking."]
    if absent:
        notes.append(f"Not measured: {', '.join(absent)}.")
    return Table(
        "Answers that became another one when the thinking before them was changed, %",
        make_columns("arm", "what", *changes.values(), "questions", "missing", texts=("what",)),
        [RowGroup("", rows)],
        notes,
        "Not measured: no arm was asked again after changed thinking.",
    )


def choice_order_table(found: Analysis) -> Table:
    """Build the table of questions that were asked with their choices in both orders."""
    there = set(found.choice_order["arm"])
    absent = [arm for arm in REVERSED_ARMS if arm not in there]

    def value(arm: str, name: str) -> float:
        return arm_value(found.choice_order, arm, name)

    rows = [
        [
            text_cell(arm),
            text_cell(found.whats.get(arm)),
            *(number_cell(value(arm, name), 1, scale=100) for name in ("changed", "stored", "reversed")),
            number_cell(value(arm, "moved"), 3),
            text_cell(int(value(arm, "items"))),
            text_cell(int(value(arm, "missing"))),
        ]
        for arm in [*found.arms, *sorted(there - set(found.arms))]
        if arm in there
    ]
    notes = [
        "All other tables are of the stored order. Where the share of other answers is high, the model answers by the "
        "place of a choice."
    ]
    if absent:
        notes.append(f"Not measured: {', '.join(absent)}.")
    heads = ("other answers, %", "accuracy, stored, %", "accuracy, reversed, %", "log-probability moves by, nats")
    return Table(
        "Closed questions with their choices in reverse order",
        make_columns("arm", "what", *heads, "questions", "missing", texts=("what",)),
        [RowGroup("", rows)] if rows else [],
        notes if rows else [],
        "Not measured: no arm was asked again with the choices in reverse order.",
    )


RATIONALE_CONTRASTS = {
    "the trace, over no thinking": (("R-trace", "R-none"),),
    "generic thinking, over no thinking": (("R-generic", "R-none"),),
    "the trace, over generic thinking": (("R-trace", "R-generic"),),
    "the trace, over no thinking, another user's reason": (("R-other-trace", "R-other-none"),),
    "the first less the fourth": (("R-trace", "R-none"), ("R-other-none", "R-other-trace")),
}
"""Sums of differences between what a reason is asked for after."""


def rationale_table(found: Analysis) -> Table:
    """How near traces come to reasons that users wrote and that the writer never saw."""
    rows = select_answered(found.outcomes, "reason").dropna(subset=["logprob"])
    rows = rows.assign(each=rows["logprob"] / rows["tokens"].astype(float))
    each = rows.pivot_table(index=["seed", "user", "item"], columns="arm", values="each")
    cells = []
    for name, pairs in RATIONALE_CONTRASTS.items():
        if {arm for pair in pairs for arm in pair} <= set(each.columns):
            cells.append(_over_users(name, sum(each[one] - each[other] for one, other in pairs), sign=True))
    return Table(
        "The user's own written reason: log-probability a token after different thinking",
        make_columns("what is compared", "difference, nats a token", "users", "reasons"),
        [RowGroup("", cells)],
        [],
        "Not measured: no reason that a user wrote was scored.",
    )


SIMILARITY_CONTRASTS = {
    "the trace": ("L-trace",),
    "generic thinking": ("L-generic",),
    "the trace, another user's reason": ("L-other",),
    "the first less the second": ("L-trace", "L-generic"),
    "the first less the third": ("L-trace", "L-other"),
}
"""What a reason is compared with; of two, the difference."""


def similarity_tables(found: Analysis) -> list[Table]:
    """How like the reasons that users wrote traces are, by embeddings; none where that was not asked for."""
    rows = select_answered(found.outcomes, "likeness")
    if rows.empty:
        return []
    each = rows.pivot_table(index=["seed", "user", "item"], columns="arm", values="cosine")
    cells = []
    for name, (one, *other) in SIMILARITY_CONTRASTS.items():
        if {one, *other} <= set(each.columns):
            cells.append(_over_users(name, each[one] - each[other[0]] if other else each[one], sign=bool(other)))
    return [
        Table(
            "The user's own written reason: likeness to different thinking, by embeddings",
            make_columns("what is compared", "cosine", "users", "reasons"),
            [RowGroup("", cells)],
            [
                "Cosine of mean-pooled embeddings, with its 95 % interval (bootstrap over users). Another user's "
                "reason is mostly about another question, and so less like the trace by its subject alone."
            ],
        )
    ]


def _over_users(name: str, each: pd.Series, *, sign: bool) -> list[Cell]:
    """Return a row with the mean over users of what is known of each reason."""
    known = each.dropna()
    spread = bootstrap_interval(known.groupby("user").mean())
    return [text_cell(name), mean_cell(spread, 3, sign=sign), text_cell(spread.users), text_cell(len(known))]


def sample_notes(found: Analysis) -> list[str]:
    """Whether the sample is enough, by `RELEVANT_DIFFERENCE` and the smallest differences that it can show."""
    known = found.comparisons.dropna(subset=["smallest"])
    most = int(found.comparisons["users"].max())
    if known.empty:
        why = {0: "no named pair of arms answered the same questions", 1: "one user shows no spread over users"}
        return [f"Whether the sample is enough cannot be said: {why.get(most, 'the users do not differ')}."]
    enough = known["smallest"] <= known["metric"].map(RELEVANT_DIFFERENCE)
    some = (
        "for every comparison" if enough.all() else "for some comparisons only" if enough.any() else "for no comparison"
    )
    return [
        f"The sample is enough {some}. It is enough for one where it would show a difference of "
        f"{_amount(RELEVANT_DIFFERENCE['right'], 'right')} of accuracy, or "
        f"{_amount(RELEVANT_DIFFERENCE['logprob'], 'logprob')} of the real answer's log-probability, in 80 % of "
        "samples at 5 %, two-sided. "
        + " ".join(_shows(known[known["metric"] == metric], metric) for metric in RELEVANT_DIFFERENCE)
        + f" With {most} users the test of signs gives no p below {2.0 ** (1 - most):.2g}, before correction. "
        "What counts is how many users there are and how unlike they are: more questions make each user's mean surer, "
        "but do not stand in for users."
    ]


def _shows(rows: pd.DataFrame, metric: str) -> str:
    name = {"right": "accuracy", "logprob": "log-probability"}[metric]
    if rows.empty:
        return f"For {name} it cannot be said."
    ascending = rows.sort_values("smallest", kind="stable")
    first, last = (
        f"{_amount(row['smallest'], metric)} ({pair_label(row['one'], row['other'])})"
        for row in (ascending.iloc[0], ascending.iloc[-1])
    )
    enough = int((rows["smallest"] <= RELEVANT_DIFFERENCE[metric]).sum())
    return (
        f"By {name} these are {enough} of {len(rows)}; the smallest difference that can be shown goes from {first} to "
        f"{last}."
    )


def _amount(value: float, metric: str) -> str:
    return f"{format_number(value, 1, scale=100)} points" if metric == "right" else f"{format_number(value)} nats"
