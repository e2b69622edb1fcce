"""The results of one evaluation: its tables, and all that the report computes from them, each once."""

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

BASELINES = {
    "majority": "the user's commonest answer",
    "copy": "the answer to the most similar past question",
    "tfidf": "logistic regression on TF-IDF of the user's past questions",
}
"""Ways to answer without a language model, with their descriptions."""

CANDIDATE_COLUMNS = (
    "seed",
    "user",
    "recipe",
    "engagement",
    "verdict",
    "reason",
    "hinted",
    "gain",
    "anchor",
    "anchor_random",
    "hindsight_gap",
    "thinking_tokens",
    "used",
)
"""Columns of the table of candidates."""


@dataclass(frozen=True)
class Analysis:
    """The tables of one evaluation, and what is computed from them."""

    about: Mapping[str, Any]
    """The content of evaluation.json."""
    outcomes: pd.DataFrame
    candidates: pd.DataFrame
    queries: Mapping[Key, str]
    """Texts of questions by user and item; questions that were not kept are missing."""

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Return the questions of the measure `answer`, with a column `answered`."""
        return metrics.select_questions(self.outcomes, "answer")

    @cached_property
    def arms(self) -> list[str]:
        """Return the arms that were run or have answers, in the order of the method; unknown arms come last."""
        there = {arm["name"] for arm in self.about.get("arms", [])} | set(self.answers["arm"])
        return [arm for arm in ARMS if arm in there] + sorted(there - set(ARMS) - set(BASELINES))

    @cached_property
    def baselines(self) -> list[str]:
        """Return the baselines that have answers."""
        there = set(self.answers["arm"])
        return [baseline for baseline in BASELINES if baseline in there]

    @cached_property
    def whats(self) -> dict[str, str]:
        """Return the description of each arm, in the words of the evaluation that ran it."""
        told = {arm["name"]: arm["what"] for arm in self.about.get("arms", [])}
        return {**{name: arm.what for name, arm in ARMS.items()}, **BASELINES, **told}

    @cached_property
    def per_user(self) -> pd.DataFrame:
        """Return the metrics of each arm, seed and user."""
        return metrics.scores_by_user(self.outcomes)

    @cached_property
    def gains(self) -> pd.DataFrame:
        """Return the Gain of each arm, seed and user."""
        return metrics.gain_by_user(self.outcomes)

    @cached_property
    def anchors(self) -> pd.DataFrame:
        """Return the Anchor of each seed and user."""
        return metrics.anchor_by_user(self.outcomes)

    @cached_property
    def thinking(self) -> pd.DataFrame:
        """Return the statistics of bare thinking, one row an arm."""
        return metrics.bare_thinking(self.outcomes)

    @cached_property
    def collapse_by_user(self) -> pd.DataFrame:
        """Return the share of collapsed thinking of each arm and user, for intervals."""
        parts = [metrics.bare_thinking(rows).assign(user=user) for user, rows in self.outcomes.groupby("user")]
        return pd.concat(parts, ignore_index=True) if parts else self.thinking.assign(user="")

    @cached_property
    def general(self) -> pd.DataFrame:
        """Return the scores on general questions, one row an arm."""
        return metrics.general_scores(self.outcomes)

    @cached_property
    def faithfulness(self) -> pd.DataFrame:
        """Return how often perturbed thinking changes the answer, one row an arm."""
        return metrics.faithfulness(self.outcomes)

    @cached_property
    def choice_order(self) -> pd.DataFrame:
        """Return how far the order of the choices decides an answer, one row an arm."""
        return metrics.choice_order(self.outcomes)

    @cached_property
    def cost(self) -> pd.DataFrame:
        """Return tokens and seconds a question, one row an arm."""
        return metrics.cost(self.outcomes)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Return the comparisons of all named pairs of arms."""
        return statistics.compare_pairs(self.outcomes, statistics.pairs_for(self.arms))

    @cached_property
    def claims(self) -> list[Hypothesis]:
        """Return the hypotheses with their results."""
        return check_hypotheses(self.thinking, self.comparisons)


def load_analysis(folder: Path) -> Analysis:
    """Read the tables of an evaluation.

    candidates.jsonl.gz and questions.jsonl.gz (user, item, query) may be missing; the report says so.

    Raises:
        FileNotFoundError: evaluation.json or outcomes.jsonl.gz is missing.
    """
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
    """Average a column of an arm over users, after averaging each user over seeds.

    Args:
        frame: A table with the columns arm, user and `column`.
        arm: The arm.
        column: The column to average.
    """
    own = frame.loc[frame["arm"] == arm, ["user", column]]
    return statistics.bootstrap_interval(own.groupby("user")[column].mean().astype(float))


def arm_value(frame: pd.DataFrame, arm: str, column: str) -> float:
    """Return the value of an arm in a table with one row an arm; NaN if there is no such row.

    Args:
        frame: A table with the columns arm and `column`.
        arm: The arm.
        column: The column to read.
    """
    found = frame.loc[frame["arm"] == arm, column]
    return float(found.iloc[0]) if len(found) else math.nan
