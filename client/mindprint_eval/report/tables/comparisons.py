"""The report's tables of differences, between arms, memories and thinkings, and what the sample can show. Pure."""

from __future__ import annotations

import math

import pandas as pd

from mindprint_eval.arms import CHANGED
from mindprint_eval.metrics.metrics import answered
from mindprint_eval.metrics.statistics import Interval, interval, named
from mindprint_eval.report.analysis import Findings, of_arm
from mindprint_eval.report.tables.model import (
    GAP,
    MINUS,
    Cell,
    Group,
    Table,
    columns,
    figure,
    mean,
    number,
    probability,
    text,
)

WORTH = {"right": 0.05, "logprob": 0.10}
"""A difference that would matter to whoever uses it: of accuracy, and of log-probability in nats."""
ASKS = {
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


def less(one: str, other: str) -> str:
    return f"{one} {MINUS} {other}"


def comparison_table(found: Findings) -> Table:
    heads = columns(
        "arms", "asks", "accuracy, points", "p (Holm)", "smallest", "log-probability, nats", "p (Holm)", "smallest",
        "users", "questions", texts=("asks",),
    )  # fmt: skip
    rows, absent = [], []
    for one, other in named(found.arms):
        right, logprob = (_pair(found.comparisons, one, other, metric) for metric in ("right", "logprob"))
        if not max(right["users"], logprob["users"]):
            absent.append(less(one, other))
            continue
        rows.append(
            [
                text(less(one, other)),
                text(ASKS[one, other]),
                *_compared(right, 1, 100.0),
                *_compared(logprob, 2, 1.0),
                text(int(max(right["users"], logprob["users"]))),
                text(int(max(right["items"], logprob["items"]))),
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
        [Group("", rows)],
        notes,
        "Not measured: no named pair of arms answered the same questions.",
    )


def _pair(comparisons: pd.DataFrame, one: str, other: str, metric: str) -> pd.Series:
    named = (comparisons["one"] == one) & (comparisons["other"] == other) & (comparisons["metric"] == metric)
    return comparisons[named].iloc[0]


def _compared(row: pd.Series, digits: int, scale: float) -> list[Cell]:
    found = Interval(row["difference"], row["low"], row["high"], row["users"])
    if not found.users:
        return [GAP, GAP, GAP]
    cannot = text("cannot be said")
    return [
        mean(found, digits, scale=scale, sign=True),
        cannot if math.isnan(row["p_holm"]) else probability(row["p_holm"]),
        cannot if math.isnan(row["smallest"]) else number(row["smallest"], digits, scale=scale),
    ]


def anchor_table(found: Findings) -> Table:
    means = found.anchors.groupby("user")[["nearest", "random", "none"]].mean()
    told = {name: interval(means[name].astype(float)) for name in means.columns}
    rows = [
        [text(name), mean(value, 3, sign=True), text(value.users)]
        for name, value in told.items()
        if not math.isnan(value.mean)
    ]
    return Table(
        "Anchor: Gain of A9 before the user's own memory, over that before another",
        columns("instead of the own memory", "Anchor, nats a token", "users"),
        [Group("", rows)] if rows else [],
        [],
        "Not measured: A9 and at least one of C3-nearest, C3-random and C3-none must have answered the same questions.",
    )


def faithfulness_table(found: Findings) -> Table:
    changes = {
        "early_end": "cut to its first half",
        "filler": "replaced by fillers",
        "other_trace": "another question's",
    }
    there = set(found.faithfulness["arm"])
    absent = [arm for arm in CHANGED if arm not in there]
    rows = [
        [
            text(arm),
            text(found.whats.get(arm)),
            *(number(of_arm(found.faithfulness, arm, name), 1, scale=100) for name in changes),
            text(int(of_arm(found.faithfulness, arm, "items"))),
            text(int(of_arm(found.faithfulness, arm, "missing"))),
        ]
        for arm in [*found.arms, *sorted(there - set(found.arms))]
        if arm in there
    ]
    notes = ["Where the share is high, the answer follows from the thinking."]
    if absent:
        notes.append(f"Not measured: {', '.join(absent)}.")
    return Table(
        "Answers that became another one when the thinking before them was changed, %",
        columns("arm", "what", *changes.values(), "questions", "missing", texts=("what",)),
        [Group("", rows)],
        notes,
        "Not measured: no arm was asked again after changed thinking.",
    )


REASONS = {
    "the trace, over no thinking": (("R-trace", "R-none"),),
    "generic thinking, over no thinking": (("R-generic", "R-none"),),
    "the trace, over generic thinking": (("R-trace", "R-generic"),),
    "the trace, over no thinking, another user's reason": (("R-other-trace", "R-other-none"),),
    "the first less the fourth": (("R-trace", "R-none"), ("R-other-none", "R-other-trace")),
}
"""Sums of differences between what a reason is asked for after."""


def reasons_table(found: Findings) -> Table:
    """How near traces come to reasons that users wrote and that the writer never saw."""
    rows = answered(found.outcomes, "reason").dropna(subset=["logprob"])
    rows = rows.assign(each=rows["logprob"] / rows["tokens"].astype(float))
    each = rows.pivot_table(index=["seed", "user", "item"], columns="arm", values="each")
    cells = []
    for name, pairs in REASONS.items():
        if {arm for pair in pairs for arm in pair} <= set(each.columns):
            cells.append(_over_users(name, sum(each[one] - each[other] for one, other in pairs), sign=True))
    return Table(
        "The user's own written reason: log-probability a token after different thinking",
        columns("what is compared", "difference, nats a token", "users", "reasons"),
        [Group("", cells)],
        [],
        "Not measured: no reason that a user wrote was scored.",
    )


LIKENESS = {
    "the trace": ("L-trace",),
    "generic thinking": ("L-generic",),
    "the trace, another user's reason": ("L-other",),
    "the first less the second": ("L-trace", "L-generic"),
    "the first less the third": ("L-trace", "L-other"),
}
"""What a reason is compared with; of two, the difference."""


def likeness_tables(found: Findings) -> list[Table]:
    """How like the reasons that users wrote traces are, by embeddings; none where that was not asked for."""
    rows = answered(found.outcomes, "likeness")
    if rows.empty:
        return []
    each = rows.pivot_table(index=["seed", "user", "item"], columns="arm", values="cosine")
    cells = []
    for name, (one, *other) in LIKENESS.items():
        if {one, *other} <= set(each.columns):
            cells.append(_over_users(name, each[one] - each[other[0]] if other else each[one], sign=bool(other)))
    return [
        Table(
            "The user's own written reason: likeness to different thinking, by embeddings",
            columns("what is compared", "cosine", "users", "reasons"),
            [Group("", cells)],
            [
                "Cosine of mean-pooled embeddings, with its 95 % interval (bootstrap over users). Another user's "
                "reason is mostly about another question, and so less like the trace by its subject alone."
            ],
        )
    ]


def _over_users(name: str, each: pd.Series, *, sign: bool) -> list[Cell]:
    """A row of the mean over users of what is known of each reason."""
    known = each.dropna()
    spread = interval(known.groupby("user").mean())
    return [text(name), mean(spread, 3, sign=sign), text(spread.users), text(len(known))]


def sample(found: Findings) -> list[str]:
    """Whether the sample is enough, by `WORTH` and the smallest differences that it can show."""
    known = found.comparisons.dropna(subset=["smallest"])
    most = int(found.comparisons["users"].max())
    if known.empty:
        why = {0: "no named pair of arms answered the same questions", 1: "one user shows no spread over users"}
        return [f"Whether the sample is enough cannot be said: {why.get(most, 'the users do not differ')}."]
    enough = known["smallest"] <= known["metric"].map(WORTH)
    some = (
        "for every comparison" if enough.all() else "for some comparisons only" if enough.any() else "for no comparison"
    )
    return [
        f"The sample is enough {some}. It is enough for one where it would show a difference of "
        f"{_amount(WORTH['right'], 'right')} of accuracy, or {_amount(WORTH['logprob'], 'logprob')} of the real "
        "answer's log-probability, in 80 % of samples at 5 %, two-sided. "
        + " ".join(_shows(known[known["metric"] == metric], metric) for metric in WORTH)
        + f" With {most} users the test of signs gives no p below {2.0 ** (1 - most):.2g}, before correction. "
        "What counts is how many users there are and how unlike they are: more questions make each user's mean surer, "
        "but do not stand in for users."
    ]


def _shows(rows: pd.DataFrame, metric: str) -> str:
    name = {"right": "accuracy", "logprob": "log-probability"}[metric]
    if rows.empty:
        return f"For {name} it cannot be said."
    first, last = (rows.sort_values("smallest", kind="stable").iloc[end] for end in (0, -1))
    return (
        f"By {name} these are {int((rows['smallest'] <= WORTH[metric]).sum())} of {len(rows)}; the smallest difference "
        f"that can be shown goes from {_amount(first['smallest'], metric)} ({less(first['one'], first['other'])}) to "
        f"{_amount(last['smallest'], metric)} ({less(last['one'], last['other'])})."
    )


def _amount(value: float, metric: str) -> str:
    return f"{figure(value, 1, scale=100)} points" if metric == "right" else f"{figure(value)} nats"
