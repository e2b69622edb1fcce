"""Everything that the report says, computed once from the tables of one evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mindprint_eval import results
from mindprint_eval.arms import ARMS
from mindprint_eval.metrics import metrics, statistics
from mindprint_eval.metrics.statistics import Interval
from mindprint_eval.report.examples import Key
from mindprint_eval.report.hypotheses import Claim, claims
from mindprint_eval.report.tables.provenance import CANDIDATE_COLUMNS

RIVALS = {
    "majority": "the user's commonest answer",
    "copy": "the answer to the most similar past question",
    "tfidf": "logistic regression on TF-IDF of the user's past questions",
}
"""Answers that no language model gives."""


@dataclass(frozen=True)
class Findings:
    about: Mapping[str, Any]
    """evaluation.json."""
    outcomes: pd.DataFrame
    candidates: pd.DataFrame
    queries: Mapping[Key, str]
    """What was asked, by user and item, as far as it was kept."""

    @cached_property
    def answers(self) -> pd.DataFrame:
        return metrics.asked(self.outcomes, "answer")

    @cached_property
    def arms(self) -> list[str]:
        """Those that were to be run or have answers, in the order of the method; ones it does not know come last."""
        there = {arm["name"] for arm in self.about.get("arms", [])} | set(self.answers["arm"])
        return [arm for arm in ARMS if arm in there] + sorted(there - set(ARMS) - set(RIVALS))

    @cached_property
    def rivals(self) -> list[str]:
        there = set(self.answers["arm"])
        return [rival for rival in RIVALS if rival in there]

    @cached_property
    def whats(self) -> dict[str, str]:
        """What each arm is, in the words of the evaluation that ran it."""
        told = {arm["name"]: arm["what"] for arm in self.about.get("arms", [])}
        return {**{name: arm.what for name, arm in ARMS.items()}, **RIVALS, **told}

    @cached_property
    def per_user(self) -> pd.DataFrame:
        return metrics.per_user(self.outcomes)

    @cached_property
    def gains(self) -> pd.DataFrame:
        return metrics.gains(self.outcomes)

    @cached_property
    def anchors(self) -> pd.DataFrame:
        return metrics.anchors(self.outcomes)

    @cached_property
    def thinking(self) -> pd.DataFrame:
        return metrics.thinking(self.outcomes)

    @cached_property
    def collapse_by_user(self) -> pd.DataFrame:
        """arm, user, collapse: for its interval."""
        parts = [metrics.thinking(rows).assign(user=user) for user, rows in self.outcomes.groupby("user")]
        return pd.concat(parts, ignore_index=True) if parts else self.thinking.assign(user="")

    @cached_property
    def general(self) -> pd.DataFrame:
        return metrics.general(self.outcomes)

    @cached_property
    def faithfulness(self) -> pd.DataFrame:
        return metrics.faithfulness(self.outcomes)

    @cached_property
    def cost(self) -> pd.DataFrame:
        return metrics.cost(self.outcomes)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        return statistics.family(self.outcomes, statistics.named(self.arms))

    @cached_property
    def claims(self) -> list[Claim]:
        return claims(self.thinking, self.comparisons)


def read(folder: Path) -> Findings:
    """The tables of an evaluation's folder. Raises FileNotFoundError without evaluation.json or outcomes.jsonl.gz;
    candidates.jsonl.gz and questions.jsonl.gz (user, item, query) may be missing, and are then reported as such."""
    rows = list(results.lines(folder / "candidates.jsonl.gz")) if (folder / "candidates.jsonl.gz").exists() else []
    asked = list(results.lines(folder / "questions.jsonl.gz")) if (folder / "questions.jsonl.gz").exists() else []
    return Findings(
        about=json.loads((folder / "evaluation.json").read_text()),
        outcomes=results.read(folder / "outcomes.jsonl.gz"),
        candidates=pd.DataFrame(rows, columns=list(CANDIDATE_COLUMNS)),
        queries={(row["user"], row["item"]): row["query"] for row in asked},
    )


def over_users(frame: pd.DataFrame, arm: str, column: str) -> Interval:
    """The mean over users of an arm's figures, each user's the mean over seeds."""
    own = frame.loc[frame["arm"] == arm, ["user", column]]
    return statistics.interval(own.groupby("user")[column].mean().astype(float))


def of_arm(frame: pd.DataFrame, arm: str, column: str) -> float:
    """One figure of a frame with a row an arm; NaN without such a row."""
    found = frame.loc[frame["arm"] == arm, column]
    return float(found.iloc[0]) if len(found) else math.nan
