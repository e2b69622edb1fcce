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
from mindprint_eval.report.hypotheses import Hypothesis, check_hypotheses
from mindprint_eval.report.tables.provenance import CANDIDATE_COLUMNS

BASELINES = {
    "majority": "the user's commonest answer",
    "copy": "the answer to the most similar past question",
    "tfidf": "logistic regression on TF-IDF of the user's past questions",
}
"""Answers that no language model gives."""


@dataclass(frozen=True)
class Analysis:
    about: Mapping[str, Any]
    """evaluation.json."""
    outcomes: pd.DataFrame
    candidates: pd.DataFrame
    queries: Mapping[Key, str]
    """What was asked, by user and item, as far as it was kept."""

    @cached_property
    def answers(self) -> pd.DataFrame:
        return metrics.select_questions(self.outcomes, "answer")

    @cached_property
    def arms(self) -> list[str]:
        """Those that were to be run or have answers, in the order of the method; ones it does not know come last."""
        there = {arm["name"] for arm in self.about.get("arms", [])} | set(self.answers["arm"])
        return [arm for arm in ARMS if arm in there] + sorted(there - set(ARMS) - set(BASELINES))

    @cached_property
    def rivals(self) -> list[str]:
        there = set(self.answers["arm"])
        return [rival for rival in BASELINES if rival in there]

    @cached_property
    def whats(self) -> dict[str, str]:
        """What each arm is, in the words of the evaluation that ran it."""
        told = {arm["name"]: arm["what"] for arm in self.about.get("arms", [])}
        return {**{name: arm.what for name, arm in ARMS.items()}, **BASELINES, **told}

    @cached_property
    def per_user(self) -> pd.DataFrame:
        return metrics.scores_by_user(self.outcomes)

    @cached_property
    def gains(self) -> pd.DataFrame:
        return metrics.gain_by_user(self.outcomes)

    @cached_property
    def anchors(self) -> pd.DataFrame:
        return metrics.anchor_by_user(self.outcomes)

    @cached_property
    def thinking(self) -> pd.DataFrame:
        return metrics.bare_thinking(self.outcomes)

    @cached_property
    def collapse_by_user(self) -> pd.DataFrame:
        """arm, user, collapse: for its interval."""
        parts = [metrics.bare_thinking(rows).assign(user=user) for user, rows in self.outcomes.groupby("user")]
        return pd.concat(parts, ignore_index=True) if parts else self.thinking.assign(user="")

    @cached_property
    def general(self) -> pd.DataFrame:
        return metrics.general_scores(self.outcomes)

    @cached_property
    def faithfulness(self) -> pd.DataFrame:
        return metrics.faithfulness(self.outcomes)

    @cached_property
    def cost(self) -> pd.DataFrame:
        return metrics.cost(self.outcomes)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        return statistics.compare_pairs(self.outcomes, statistics.pairs_for(self.arms))

    @cached_property
    def claims(self) -> list[Hypothesis]:
        return check_hypotheses(self.thinking, self.comparisons)


def load_analysis(folder: Path) -> Analysis:
    """The tables of an evaluation's folder. Raises FileNotFoundError without evaluation.json or outcomes.jsonl.gz;
    candidates.jsonl.gz and questions.jsonl.gz (user, item, query) may be missing, and are then reported as such."""
    rows = (
        list(results.read_ndjson(folder / "candidates.jsonl.gz")) if (folder / "candidates.jsonl.gz").exists() else []
    )
    asked = list(results.read_ndjson(folder / "questions.jsonl.gz")) if (folder / "questions.jsonl.gz").exists() else []
    return Analysis(
        about=json.loads((folder / "evaluation.json").read_text()),
        outcomes=results.read_outcomes(folder / "outcomes.jsonl.gz"),
        candidates=pd.DataFrame(rows, columns=list(CANDIDATE_COLUMNS)),
        queries={(row["user"], row["item"]): row["query"] for row in asked},
    )


def mean_over_users(frame: pd.DataFrame, arm: str, column: str) -> Interval:
    """The mean over users of an arm's figures, each user's the mean over seeds."""
    own = frame.loc[frame["arm"] == arm, ["user", column]]
    return statistics.bootstrap_interval(own.groupby("user")[column].mean().astype(float))


def arm_value(frame: pd.DataFrame, arm: str, column: str) -> float:
    """One figure of a frame with a row an arm; NaN without such a row."""
    found = frame.loc[frame["arm"] == arm, column]
    return float(found.iloc[0]) if len(found) else math.nan
