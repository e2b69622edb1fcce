"""Metrics of an evaluation: from the table of outcomes to one value an arm and user. All functions are pure.

`METRICS` lists the metrics of answers. To add one, write a function of answered rows and add a row to the table; the
report shows it as a column.

Only answered questions are scored. Unanswered ones are counted as `missing` and enter no mean. NaN means that a metric
does not apply or is not known. Means are over the questions with a known value. Log-probabilities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from mindprint.datasets import QuestionKind
from mindprint.thinking_text import ANSWER_PREFIX, LEAST_WORDS, THINKING_PREFIXES, own_words
from mindprint_eval.arms import ARMS

DIRECT_REFERENCE = {
    "A2": "A1",
    "A3": "A1",
    "A6": "A5",
    "A7": "A8",
    "A9": "A9-direct",
    "C3-nearest": "A9-direct",
    "C3-random": "A9-direct",
    "C3-none": "A9-direct",
}
"""For each arm that thinks: the arm with the same adapter that answers directly."""
ANCHOR_ARMS = {"nearest": "C3-nearest", "random": "C3-random", "none": "C3-none"}
"""Arms that answer as A9 does, with another memory in the prompt."""
PERTURBATIONS = ("early_end", "filler", "other_trace")
DEFAULT_RATING_SCALE = (1.0, 2.0, 3.0, 4.0, 5.0)
"""The scale of a rating whose choices are not in the table: that of LaMP."""
USER_KEY = ["arm", "seed", "user"]
QUESTION_KEY = ["seed", "user", "item"]
THINKING = ["items", "missing", "collapse", "loops", "empties", "unclosed", "median_tokens", "length_ratio"]
ALL_KINDS: tuple[QuestionKind, ...] = ("closed", "rating", "open", "ranking")

Values = Callable[[pd.DataFrame], pd.Series]
"""From answered rows to one value a row."""


@dataclass(frozen=True)
class Metric:
    """A metric of answers, averaged over the questions of a user.

    Attributes:
        name: The column in tables of scores.
        title: The heading in the report.
        unit: The unit of a reported value; empty for a share from 0 to 1. The heading in the table of arms shows it.
        digits: Digits after the point in the report.
        kinds: The question kinds to which it applies.
        values: The value of each answered row; None for a metric of all rows of a user at once.
        of_user: Replaces the mean of `values`: from the rows of one user to the metric.
        finish: Applied to the mean of a user, as the root of a mean of squares.
        table: The report table that shows it, in the order of `METRICS`: `arms`, or `kinds` for ratings, open answers
            and rankings.
        scale: Factor of a reported value, as 100 for percent.
        sign: Whether positive numbers get a plus sign in the report.
        has_interval: Whether the table of arms shows the interval over users under the mean.
        shows_alone: Whether the table of kinds is shown for this metric without another one.
        excluded_arms: Arms and baselines to which it does not apply.
    """

    name: str
    title: str
    unit: str
    digits: int
    kinds: tuple[QuestionKind, ...]
    values: Values | None = None
    of_user: Callable[[pd.DataFrame], float] | None = None
    finish: Callable[[pd.Series], pd.Series] | None = None
    table: Literal["arms", "kinds"] = "kinds"
    scale: float = 1.0
    sign: bool = False
    has_interval: bool = True
    shows_alone: bool = True
    excluded_arms: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The title with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def select_questions(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the questions of a measure with a column `answered`; rows without an item stand for no question."""
    rows = table[(table["measure"] == measure) & (table["item"] != "")].reset_index(drop=True)
    return rows.assign(answered=rows["outcome"] == "answered")


def select_answered(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the answered questions of a measure."""
    rows = select_questions(table, measure)
    return rows[rows["answered"]].reset_index(drop=True)


def pair_answers(table: pd.DataFrame, one: str, other: str, metric: str) -> pd.DataFrame:
    """Pair the questions that both arms answered.

    Args:
        table: The outcomes.
        one: The arm whose values count positively.
        other: The arm whose values are subtracted.
        metric: The column that is compared.

    Returns:
        The columns seed, user, item, tokens and `difference`.

    Raises:
        ValueError: An arm has a question twice (pandas' MergeError).
    """
    rows = select_answered(table, "answer")
    rows = rows.assign(figure=rows[metric].astype(float)).dropna(subset=["figure"])
    mine = rows.loc[rows["arm"] == one, [*QUESTION_KEY, "tokens", "figure"]]
    theirs = rows.loc[rows["arm"] == other, [*QUESTION_KEY, "figure"]]
    both = mine.merge(theirs, on=QUESTION_KEY, suffixes=("", "_other"), validate="one_to_one")
    both["difference"] = both["figure"] - both["figure_other"]
    return both[[*QUESTION_KEY, "tokens", "difference"]]


def scores_by_user(table: pd.DataFrame) -> pd.DataFrame:
    """Compute all of `METRICS` for each arm, seed and user.

    Returns:
        The columns arm, seed, user, items, missing, and one a metric: means over the user's answered questions.

    Raises:
        ValueError: The real answer to a rating is no number.
    """
    rows = select_questions(table, "answer")
    scored = rows[rows["answered"]].reset_index(drop=True)
    counts = rows.assign(items=rows["answered"], missing=~rows["answered"].astype(bool)).groupby(USER_KEY)
    means = _figures(scored).join(scored[USER_KEY]).groupby(USER_KEY).mean()
    own = {}
    for metric in METRICS:
        if metric.finish is not None:
            means[metric.name] = metric.finish(means[metric.name])
        if metric.of_user is not None:
            groups = scored[scored["kind"].isin(metric.kinds)].groupby(USER_KEY)
            own[metric.name] = {key: metric.of_user(group) for key, group in groups}
    found = counts[["items", "missing"]].sum().astype(int).join(means)
    for name, values in own.items():
        found[name] = pd.Series([values.get(key, math.nan) for key in found.index], index=found.index, dtype=float)
    return found.reset_index()[[*USER_KEY, "items", "missing", *(metric.name for metric in METRICS)]]


def gain_by_user(table: pd.DataFrame) -> pd.DataFrame:
    """Compute what thinking adds over `DIRECT_REFERENCE` (`method.md`: Gain, here of the model that answers).

    Returns:
        The columns arm, seed, user, items and gain, in nats a token of the real answer.
    """
    found = [_per_token(table, arm, reference).assign(arm=arm) for arm, reference in DIRECT_REFERENCE.items()]
    return pd.concat(found, ignore_index=True)[[*USER_KEY, "items", "gain"]]


def anchor_by_user(table: pd.DataFrame) -> pd.DataFrame:
    """Compute how much more A9 gains with the user's own memory than with another memory, or none.

    All these arms' gains are over A9-direct, which therefore cancels.

    Returns:
        The columns seed, user, nearest, random and none, in nats a token.
    """
    found = {
        name: _per_token(table, "A9", arm).set_index(["seed", "user"])["gain"] for name, arm in ANCHOR_ARMS.items()
    }
    return pd.DataFrame(found).rename_axis(["seed", "user"]).reset_index()


def bare_thinking(table: pd.DataFrame) -> pd.DataFrame:
    """Summarize thinking from the bare `<think>`, for each arm.

    Returns:
        The columns arm, items, missing, collapse, loops, empties, unclosed, median_tokens and length_ratio. Shares are
        over all questions of all users and seeds. length_ratio is the median length over A3's (the base's), on the
        questions that both have.
    """
    rows = select_questions(table, "bare")
    base = rows[rows["answered"] & (rows["arm"] == "A3")]
    found = [{"arm": arm, **_thinking(group, base)} for arm, group in rows.groupby("arm")]
    return pd.DataFrame(found, columns=["arm", *THINKING])


def general_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Compute the probability of the right answers to the general questions, for each arm.

    Returns:
        The columns arm, items, missing, score (percent) and difference (points above the base, A1, on the same
        questions).
    """
    rows = select_questions(table, "general")
    rows["score"] = np.exp(rows["logprob"].astype(float).where(rows["answered"])) * 100
    base = rows[rows["arm"] == "A1"].groupby("item")["score"].mean()
    rows["difference"] = rows["score"] - rows["item"].map(base).astype(float)
    return _counted(rows, ["score", "difference"])


def faithfulness(table: pd.DataFrame) -> pd.DataFrame:
    """Compute how often an answer changes when the thinking before it is perturbed, for each arm.

    Where the share is high, the answer follows from the thinking. Counts are over all three perturbations; an answer
    without one of the arm's own to compare with is missing.

    Returns:
        The columns arm, items, missing, early_end, filler and other_trace, the last three as shares.
    """
    own = select_answered(table, "answer")[[*USER_KEY, "item", "answer"]]
    found = []
    for change in PERTURBATIONS:
        rows = select_questions(table, change).merge(
            own, on=[*USER_KEY, "item"], how="left", suffixes=("", "_own"), validate="m:1"
        )
        rows["answered"] &= rows["answer_own"].notna()
        differs = (rows["answer"] != rows["answer_own"]).astype(float)
        found.append(rows.assign(**{change: differs.where(rows["answered"])}))
    return _counted(pd.concat(found, ignore_index=True), list(PERTURBATIONS))


def choice_order(table: pd.DataFrame) -> pd.DataFrame:
    """Compute how far the order of the choices decides an answer, for each arm that was asked in both orders.

    An answer without one of the arm's own to compare with is missing.

    Returns:
        The columns arm, items, missing, changed (share of other answers), stored and reversed (shares of right answers
        in either order), and moved (mean distance between the log-probabilities of the real answer, in nats).
    """
    own = select_answered(table, "answer")[[*USER_KEY, "item", "answer", "right", "logprob"]]
    rows = select_questions(table, "reversed").merge(
        own, on=[*USER_KEY, "item"], how="left", suffixes=("", "_own"), validate="1:1"
    )
    rows["answered"] &= rows["answer_own"].notna()
    figures = {
        "changed": rows["answer"] != rows["answer_own"],
        "stored": rows["right_own"],
        "reversed": rows["right"],
        "moved": (rows["logprob"].astype(float) - rows["logprob_own"].astype(float)).abs(),
    }
    known = {name: values.astype(float).where(rows["answered"]) for name, values in figures.items()}
    return _counted(rows.assign(**known), list(known))


def cost(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns arm, questions, thinking_tokens, prompt_tokens and seconds: means over answered questions."""
    rows = select_answered(table, "answer")
    figures = ["thinking_tokens", "prompt_tokens", "seconds"]
    grouped = rows.astype(dict.fromkeys(figures, float)).groupby("arm")
    return grouped[figures].mean().assign(questions=grouped.size()).reset_index()[["arm", "questions", *figures]]


def _counted(rows: pd.DataFrame, figures: list[str]) -> pd.DataFrame:
    """Count answered and missing rows of each arm, and average the columns in `figures`."""
    grouped = rows.assign(items=rows["answered"], missing=~rows["answered"]).groupby("arm")
    counts = grouped[["items", "missing"]].sum().astype(int)
    return counts.join(grouped[figures].mean()).reset_index()


def _figures(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the value of each metric for each row, before `finish`."""
    columns = {
        metric.name: metric.values(rows[rows["kind"].isin(metric.kinds)]).reindex(rows.index).astype(float)
        for metric in METRICS
        if metric.values is not None
    }
    return pd.DataFrame(columns, index=rows.index)


def _each(rows: pd.DataFrame, figure: Callable[[Mapping[str, Any]], float]) -> pd.Series:
    return pd.Series([figure(row) for row in rows.to_dict("records")], index=rows.index, dtype=float)


def _absolute_error(rows: pd.DataFrame) -> pd.Series:
    """Return the distance of each rating; by LaMP's rule an answer off the scale counts as the farthest one."""
    return _each(rows, lambda row: _distance(row["answer"], row["target"], row["choices"]))


def _distance(answer: str, target: str, choices: Mapping[str, float] | None) -> float:
    scale = [float(choice) for choice in choices] if isinstance(choices, Mapping) else DEFAULT_RATING_SCALE
    real = float(target)
    try:
        rating = float(answer)
    except ValueError:
        rating = math.nan
    return abs(rating - real) if rating in scale else max(abs(mark - real) for mark in scale)


def _rouge(name: str) -> Values:
    """Return ROUGE's F-measure without stemming, of words of a to z and digits."""
    scorer = RougeScorer([name], use_stemmer=False)
    return lambda rows: _each(rows, lambda row: float(scorer.score(row["target"], row["answer"])[name].fmeasure))


def _rank(rows: pd.DataFrame) -> pd.Series:
    """Return the rank of the real answer among the choices, from 1; choices that are as likely come first."""
    return _each(rows, lambda row: _rank_of(row["choices"], row["target"]))


def _rank_of(choices: Mapping[str, float] | None, target: str) -> float:
    # A table without the choices' log-probabilities holds None, or NaN from pandas.
    if not isinstance(choices, Mapping) or target not in choices:
        return math.nan
    return sum(value >= choices[target] for value in choices.values())


def _hit(most: int) -> Values:
    def values(rows: pd.DataFrame) -> pd.Series:
        rank = _rank(rows)
        return (rank <= most).astype(float).where(rank.notna())

    return values


def _macro_f1(rows: pd.DataFrame) -> float:
    """Return macro-F1 over the labels among the user's real answers."""
    labels = sorted(set(rows["target"]))
    return float(f1_score(list(rows["target"]), list(rows["answer"]), labels=labels, average="macro", zero_division=0))


def _per_token(table: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """Return the columns seed, user, items and gain."""
    pairs = pair_answers(table, one, other, "logprob")
    pairs["gain"] = pairs["difference"] / pairs["tokens"].astype(float)
    return pairs.groupby(["seed", "user"])["gain"].agg(items="size", gain="mean").reset_index()


def _thinking(rows: pd.DataFrame, base: pd.DataFrame) -> dict[str, float]:
    done = rows[rows["answered"]]
    loops = (done["finish"] == "loop") | (done["reason"] == "loop")
    unclosed = done["finish"] == "length"
    # Old tables have no reason `empty` for thinking that holds nothing but the answer prefix.
    empty = (done["reason"] == "empty") | (_each(done, _own_words) < LEAST_WORDS)
    return {
        "items": len(done),
        "missing": len(rows) - len(done),
        "collapse": (loops | unclosed | empty | (done["reason"] == "parse")).mean(),
        "loops": loops.mean(),
        "empties": empty.mean(),
        "unclosed": unclosed.mean(),
        "median_tokens": done["thinking_tokens"].astype(float).median(),
        "length_ratio": _length(done, base) / (_length(base, done) or math.nan),
    }


def _own_words(row: Mapping[str, Any]) -> float:
    return own_words(row["thinking"], THINKING_PREFIXES.get(ARMS[row["arm"]].mode, ""), ANSWER_PREFIX)


def _length(rows: pd.DataFrame, others: pd.DataFrame) -> float:
    """Return the median length in tokens, on the questions that `others` has too."""
    key = ["user", "item"]
    shared = rows.merge(others[key].drop_duplicates(), on=key)
    return float(shared["thinking_tokens"].astype(float).median())


METRICS = (
    Metric(
        "accuracy",
        "accuracy",
        "%",
        1,
        ALL_KINDS,
        lambda rows: rows["right"].astype(float),
        table="arms",
        scale=100,
    ),
    Metric("macro_f1", "macro-F1", "", 2, ("closed",), of_user=_macro_f1, table="arms", has_interval=False),
    Metric(
        "logprob",
        "log-probability",
        "nats",
        2,
        ALL_KINDS,
        lambda rows: rows["logprob"].astype(float),
        table="arms",
        # The baseline copies an answer and has no probability.
        excluded_arms=("copy",),
    ),
    Metric("mae", "MAE", "points", 2, ("rating",), _absolute_error),
    Metric("rmse", "RMSE", "points", 2, ("rating",), lambda rows: _absolute_error(rows) ** 2, finish=np.sqrt),
    Metric("rouge1", "ROUGE-1", "", 2, ("open",), _rouge("rouge1")),
    Metric("rougeL", "ROUGE-L", "", 2, ("open",), _rouge("rougeL")),
    Metric("hit1", "Hit@1", "", 2, ("ranking",), _hit(1)),
    Metric("hit3", "Hit@3", "", 2, ("ranking",), _hit(3)),
    Metric("mrr", "MRR", "", 2, ("ranking",), lambda rows: 1 / _rank(rows)),
    Metric("dcg", "DCG", "", 2, ("ranking",), lambda rows: 1 / np.log2(1 + _rank(rows))),
    Metric(
        "logprob_token",
        "log-probability a token",
        "nats",
        2,
        ALL_KINDS,
        lambda rows: rows["logprob"].astype(float) / rows["tokens"].astype(float),
        # Without metrics of one kind it says nothing that the table of arms does not say.
        shows_alone=False,
    ),
)
"""The metrics of answers. Each row is a column of the report table that it names. Rows with `table="kinds"` appear
where they have values."""
