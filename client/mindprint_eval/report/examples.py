"""Example traces of the report, chosen by a fixed rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

ONE, OTHER = "A9", "A3"
SHOWN_ARMS = ("A2", "A3", "A6", "A9")
MAX_USERS = 2
PLACES = ("largest", "median", "smallest")
SELECTION_RULE = (
    f"For each of the first {MAX_USERS} users, in the order of the evaluation, the questions with the largest, the "
    f"median and the smallest difference in the real answer's log-probability between {ONE} and {OTHER} (mean over "
    "the seeds in which both answered; of two middle ones the lower; ties by the question's id). "
    "The seed shown is the first in which both answered."
)

Key = tuple[str, str]
"""User and item."""


@dataclass(frozen=True)
class ArmExample:
    """The answer of one arm; `outcome` is `not measured` if the table has no such row."""

    arm: str
    outcome: str
    why: str = ""
    thinking: str = ""
    answer: str = ""
    right: bool | None = None
    logprob: float | None = None
    flaw: str = ""
    """What is wrong with the thinking: loop, empty, parse or leak."""


@dataclass(frozen=True)
class Example:
    user: str
    item: str
    place: str
    difference: float
    """Nats, mean over seeds."""
    seed: int
    query: str | None
    """None where the evaluation did not keep it."""
    choices: list[str]
    target: str
    shown: list[ArmExample]


def select_examples(outcomes: pd.DataFrame, users: Sequence[str], queries: Mapping[Key, str]) -> list[Example]:
    """By `SELECTION_RULE`. Users whom both arms answered nothing are passed over; few questions make fewer places."""
    answers = outcomes[outcomes["measure"] == "answer"]
    differences = _differences(answers)
    found: list[Example] = []
    for user in [name for name in users if (differences["user"] == name).any()][:MAX_USERS]:
        own = differences[differences["user"] == user]
        means = own.groupby("item", sort=True)["difference"].mean().sort_values(kind="stable")
        for place, item in _places([str(name) for name in means.index]):
            seed = int(own.loc[own["item"] == item, "seed"].min())
            rows = answers[(answers["user"] == user) & (answers["item"] == item) & (answers["seed"] == seed)]
            found.append(_chosen(rows, (user, item), place, float(means[item]), seed, queries))
    return found


def _differences(answers: pd.DataFrame) -> pd.DataFrame:
    keys = ["seed", "user", "item"]
    scored = answers[(answers["outcome"] == "answered") & answers["logprob"].notna()]
    one, other = (scored.loc[scored["arm"] == arm, [*keys, "logprob"]] for arm in (ONE, OTHER))
    both = one.merge(other, on=keys, suffixes=("_one", "_other"))
    return both[keys].assign(difference=both["logprob_one"] - both["logprob_other"])


def _places(ascending: Sequence[str]) -> list[tuple[str, str]]:
    """Largest, median and smallest; an item that would stand twice stands in its first place only."""
    ends = (ascending[-1], ascending[(len(ascending) - 1) // 2], ascending[0])
    found: dict[str, str] = {}
    for place, item in zip(PLACES, ends, strict=True):
        found.setdefault(item, place)
    return [(place, item) for item, place in found.items()]


def _chosen(
    rows: pd.DataFrame, key: Key, place: str, difference: float, seed: int, queries: Mapping[Key, str]
) -> Example:
    by_arm: dict[str, dict[str, Any]] = {str(row["arm"]): row for row in rows.to_dict("records")}
    first = by_arm[ONE]
    return Example(
        user=key[0],
        item=key[1],
        place=place,
        difference=difference,
        seed=seed,
        query=queries.get(key),
        choices=list(first["choices"]) if isinstance(first["choices"], dict) else [],
        target=str(first["target"]),
        shown=[_shown(arm, by_arm.get(arm)) for arm in SHOWN_ARMS],
    )


def _shown(arm: str, row: Mapping[str, Any] | None) -> ArmExample:
    if row is None:
        return ArmExample(arm, "not measured")
    return ArmExample(
        arm,
        outcome=str(row["outcome"]),
        why=str(row["why"]),
        thinking=str(row["thinking"]),
        answer=str(row["answer"]),
        right=bool(row["right"]) if isinstance(row["right"], bool) else None,
        logprob=float(row["logprob"]) if pd.notna(row["logprob"]) else None,
        flaw=row["reason"] if isinstance(row["reason"], str) else "",
    )
