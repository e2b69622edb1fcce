"""Tables of how the evaluation came about: candidates and what became of them, adapters, settings. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mindprint_eval.arms import RECIPES
from mindprint_eval.report.table import (
    NOT_APPLICABLE_CELL,
    Cell,
    RowGroup,
    Table,
    make_columns,
    number_cell,
    text_cell,
)

SCORE_TITLES = {
    "gain": "Gain",
    "anchor": "Anchor, nearest",
    "anchor_random": "Anchor, random",
    "hindsight_gap": "Hindsight gap",
}


def funnel_counts(candidates: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By recipe: a row a stage (candidates, each reason for rejection, accepted, trained), unhinted and hinted.

    The reasons stand in one order in all recipes, the commonest of all candidates first.
    """
    rejected = candidates["verdict"] != "accepted"
    candidates = candidates.assign(reason=candidates["reason"].fillna("no reason kept").where(rejected))
    order = [str(reason) for reason in candidates["reason"].value_counts().index]
    return {str(recipe): _funnel(rows, order) for recipe, rows in candidates.groupby("recipe", sort=False)}


def _funnel(rows: pd.DataFrame, reasons: Sequence[str]) -> pd.DataFrame:
    accepted, used = rows["verdict"] == "accepted", rows["used"].astype(bool)
    stages = {
        "candidates": rows,
        **{reason: rows[rows["reason"] == reason] for reason in reasons},
        "accepted": rows[accepted],
        "trained": rows[used],
    }
    counts = {
        stage: {"unhinted": int((~of["hinted"].astype(bool)).sum()), "hinted": int(of["hinted"].astype(bool).sum())}
        for stage, of in stages.items()
    }
    return pd.DataFrame.from_dict(counts, orient="index", columns=["unhinted", "hinted"])


def funnel_table(candidates: pd.DataFrame) -> Table:
    rows: list[RowGroup] = []
    for recipe, counts in funnel_counts(candidates).items():
        own = candidates[candidates["recipe"] == recipe]
        whole = counts.loc["candidates"]
        cells = [
            [
                text_cell(stage),
                text_cell(unhinted),
                _share(unhinted, whole["unhinted"]),
                text_cell(hinted),
                _share(hinted, whole["hinted"]),
            ]
            for stage, unhinted, hinted in counts.itertuples()
        ]
        rows.append(RowGroup(f"{recipe}: {_yield(own)}", cells))
    return Table(
        "What became of the candidates",
        make_columns("stage", "unhinted", "%", "hinted", "%"),
        rows,
        [
            "Hinted: the writer saw the real answer. Trained: an adapter of this recipe learned from it, of an "
            "engagement at most one; where accepted and trained differ, the recipe's own selection decided."
        ],
        "Not measured: candidates.jsonl.gz has no rows.",
    )


def _share(count: int, whole: int) -> Cell:
    return number_cell(count / whole, 1, scale=100) if whole else NOT_APPLICABLE_CELL


def _yield(rows: pd.DataFrame) -> str:
    keys = ["seed", "user", "engagement"]
    attempted = len(rows[keys].drop_duplicates())
    won = len(rows.loc[rows["verdict"] == "accepted", keys].drop_duplicates())
    return f"of {attempted} engagements attempted {won} have an accepted trace ({100 * won / attempted:.1f} %)"


def score_table(candidates: pd.DataFrame) -> Table:
    """Medians of the scores, for accepted and rejected candidates, unhinted and hinted."""
    groups: list[RowGroup] = []
    for recipe, rows in candidates.groupby("recipe", sort=False):
        cells: list[list[Cell]] = []
        for name, verdict in (("accepted", True), ("rejected", False)):
            for how, hinted in (("unhinted", False), ("hinted", True)):
                of = rows[((rows["verdict"] == "accepted") == verdict) & (rows["hinted"].astype(bool) == hinted)]
                if len(of):
                    cells.append(
                        [
                            text_cell(f"{name}, {how}"),
                            text_cell(len(of)),
                            *(_median(of[score]) for score in SCORE_TITLES),
                        ]
                    )
        groups.append(RowGroup(str(recipe), cells))
    return Table(
        "Scores of the candidates: median, and how many have the score",
        make_columns("candidates", "count", *SCORE_TITLES.values()),
        groups,
        ["Nats a token. A candidate that a cheap test rejects is not scored."],
        "Not measured: candidates.jsonl.gz has no rows.",
    )


def _median(values: pd.Series[Any]) -> Cell:
    values = pd.to_numeric(values).dropna()
    return (
        number_cell(float(values.median()), 3, sign=True, below=f"n = {len(values)}")
        if len(values)
        else number_cell(None)
    )


def adapter_summary(adapters: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of adapters, one row a recipe."""
    by_recipe = {a["recipe"]: [b for b in adapters if b["recipe"] == a["recipe"]] for a in adapters}
    rows = [
        [
            text_cell(recipe),
            text_cell(len(own)),
            *(text_cell(sum(a["state"] == state for a in own)) for state in ("live", "refused", "no_adapter")),
            text_cell(sum(a.get("traces") or 0 for a in own)),
            text_cell(f"{sum(a.get('tokens') or 0 for a in own):,}"),
            number_cell(sum(a.get("seconds") or 0.0 for a in own), 0),
        ]
        for recipe, own in by_recipe.items()
    ]
    why = _reasons(
        (f"{a['recipe']}, {a['state'].replace('_', ' ')}", a.get("why")) for a in adapters if a["state"] != "live"
    )
    return Table(
        "Adapters by recipe",
        make_columns("recipe", "wanted", "live", "refused", "none made", "traces", "tokens trained", "seconds"),
        [RowGroup("", rows)],
        [*(why or ["Every adapter that was wanted went live."]), *_no_lessons(by_recipe)],
        "Not measured: no adapter was wanted.",
    )


def _no_lessons(recipes: Iterable[str]) -> list[str]:
    told = [name for name in recipes if name in RECIPES and RECIPES[name].training_set == "none"]
    return [f"What learns from answers alone ({', '.join(told)}) holds one trace of no weight."] if told else []


def adapter_table(adapters: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            text_cell(f"{a['recipe']}, {a['user']}, seed {a['seed']}"),
            text_cell(a["state"].replace("_", " ")),
            text_cell(a.get("why")),
            text_cell(a.get("traces")),
            text_cell(_pairs(a.get("samples") or {})),
            text_cell(f"{a.get('tokens') or 0:,}"),
            number_cell(a.get("seconds"), 0),
            text_cell(_pairs(a.get("losses") or {})),
        ]
        for a in adapters
    ]
    head = make_columns(
        "recipe, user, seed", "state", "why", "traces", "samples", "tokens", "seconds", "losses",
        texts=("state", "why", "samples", "losses"),
    )  # fmt: skip
    return Table("Every adapter", head, [RowGroup("", rows)], [], "Not measured: no adapter was wanted.")


def missing_table(outcomes: pd.DataFrame) -> Table:
    """Every question without an answer, by arm and reason; a row without an item says why there was no question."""
    lost = outcomes[outcomes["outcome"] != "answered"]
    keys = ["measure", "arm", "outcome", "why"]
    rows = [
        [
            text_cell(arm),
            text_cell(measure),
            text_cell(str(outcome).replace("_", " ")),
            text_cell(why),
            text_cell(int((of["item"] != "").sum()) or "none was put"),
        ]
        for (measure, arm, outcome, why), of in lost.groupby(keys, sort=False)
    ]
    return Table(
        "Questions without an answer, and why",
        make_columns("arm", "measure", "outcome", "why", "questions", texts=("measure", "outcome", "why")),
        [RowGroup("", rows)],
        [],
        "None is missing: every question of the tables was answered.",
    )


def settings_table(caption: str, values: Mapping[str, Any]) -> Table:
    """Names and values; what has parts is shown as JSON."""
    rows = [[text_cell(name), text_cell(_plain(value))] for name, value in values.items()]
    return Table(
        caption, make_columns("name", "value", texts=("value",)), [RowGroup("", rows)], [], f"{caption}: not recorded."
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _reasons(found: Iterable[tuple[str, str | None]]) -> list[str]:
    """Each reason once, with how often it was given."""
    counts = pd.Series([f"{what}: {why or 'no reason kept'}" for what, why in found], dtype=object).value_counts(
        sort=False
    )
    return [f"{reason} ({count})" for reason, count in counts.items()]
