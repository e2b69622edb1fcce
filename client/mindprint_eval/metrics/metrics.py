"""What the outcomes of an evaluation say of each arm and user: frames in, frames out. Pure.

Only what was answered is scored. What was not is counted as `missing`, and stands in no mean. NaN: does not apply, or
is not known. Means are over the questions of which a figure is known; log-probabilities are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score

from mindprint.thinking_text import ANSWER_LEAD, LEAST_WORDS, OPENINGS, own_words
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
"""Of an arm that thinks, the one with the same adapter that answers at once."""
ANCHOR_ARMS = {"nearest": "C3-nearest", "random": "C3-random", "none": "C3-none"}
"""The arms that are A9 before another memory."""
PERTURBATIONS = ("early_end", "filler", "other_trace")
DEFAULT_RATING_SCALE = (1.0, 2.0, 3.0, 4.0, 5.0)
"""Of a rating whose choices are not in the table: LaMP's."""
USER_KEY = ["arm", "seed", "user"]
QUESTION_KEY = ["seed", "user", "item"]
SCORES = ["accuracy", "macro_f1", "logprob", "logprob_token", "mae", "rmse", "rouge1", "rougeL"]
THINKING = ["items", "missing", "collapse", "loops", "empties", "unclosed", "median_tokens", "length_ratio"]
RANKS = ["hit1", "hit3", "mrr", "dcg"]


def select_questions(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The questions of a measure, with a column `select_answered`. A row without an item stands for no question."""
    rows = table[(table["measure"] == measure) & (table["item"] != "")].reset_index(drop=True)
    return rows.assign(answered=rows["outcome"] == "answered")


def select_answered(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    rows = select_questions(table, measure)
    return rows[rows["answered"]].reset_index(drop=True)


def pair_answers(table: pd.DataFrame, one: str, other: str, metric: str) -> pd.DataFrame:
    """The questions that both arms answered: seed, user, item, tokens, and `difference`, of one minus the other.

    Raises ValueError (pandas' MergeError) if an arm has a question twice.
    """
    rows = select_answered(table, "answer")
    rows = rows.assign(figure=rows[metric].astype(float)).dropna(subset=["figure"])
    mine = rows.loc[rows["arm"] == one, [*QUESTION_KEY, "tokens", "figure"]]
    theirs = rows.loc[rows["arm"] == other, [*QUESTION_KEY, "figure"]]
    both = mine.merge(theirs, on=QUESTION_KEY, suffixes=("", "_other"), validate="one_to_one")
    both["difference"] = both["figure"] - both["figure_other"]
    return both[[*QUESTION_KEY, "tokens", "difference"]]


def scores_by_user(table: pd.DataFrame) -> pd.DataFrame:
    """arm, seed, user, items, missing, and SCORES and RANKS as means over the user's answered questions.

    accuracy: where it is known what is right. macro_f1 (closed): over the labels among the user's real answers.
    logprob_token: by the length of the real answer. mae, rmse (ratings): by LaMP's rule, what is no number on the scale
    counts as the farthest from the real one. rouge1, rougeL (open): F-measure without stemming, of words of a to z and
    digits. hit1, hit3, mrr, dcg (rankings): by the rank of the real answer among the choices, those as likely first.
    Raises ValueError if the real answer to a rating is no number.
    """
    rows = select_questions(table, "answer")
    scored = rows[rows["answered"]].reset_index(drop=True)
    counts = rows.assign(items=rows["answered"], missing=~rows["answered"].astype(bool)).groupby(USER_KEY)
    means = _figures(scored).join(scored[USER_KEY]).groupby(USER_KEY).mean()
    means["rmse"] = np.sqrt(means["rmse"])
    closed = scored[scored["kind"] == "closed"].groupby(USER_KEY)
    f1 = pd.DataFrame([(*key, _macro_f1(group)) for key, group in closed], columns=[*USER_KEY, "macro_f1"])
    found = counts[["items", "missing"]].sum().astype(int).join(means).join(f1.set_index(USER_KEY))
    return found.reset_index()[[*USER_KEY, "items", "missing", *SCORES, *RANKS]]


def gain_by_user(table: pd.DataFrame) -> pd.DataFrame:
    """arm, seed, user, items, gain: what thinking adds over REFERENCE, in nats a token of the real answer (`method.md`:
    Gain, here of the model that answers)."""
    found = [_per_token(table, arm, reference).assign(arm=arm) for arm, reference in DIRECT_REFERENCE.items()]
    return pd.concat(found, ignore_index=True)[[*USER_KEY, "items", "gain"]]


def anchor_by_user(table: pd.DataFrame) -> pd.DataFrame:
    """seed, user, nearest, random, none: how much more A9 gains before the user's own memory than before another's or
    none, in nats a token. All these arms' gains are over A9-direct, which therefore drops out."""
    found = {
        name: _per_token(table, "A9", arm).set_index(["seed", "user"])["gain"] for name, arm in ANCHOR_ARMS.items()
    }
    return pd.DataFrame(found).rename_axis(["seed", "user"]).reset_index()


def bare_thinking(table: pd.DataFrame) -> pd.DataFrame:
    """arm, items, missing, collapse, loops, empties, unclosed, median_tokens, length_ratio of the bare `<think>`.

    Shares are over all questions of all users and seeds. length_ratio: the median over A3's, which is the base's, on
    the questions to users that both have.
    """
    rows = select_questions(table, "bare")
    base = rows[rows["answered"] & (rows["arm"] == "A3")]
    found = [{"arm": arm, **_thinking(group, base)} for arm, group in rows.groupby("arm")]
    return pd.DataFrame(found, columns=["arm", *THINKING])


def general_scores(table: pd.DataFrame) -> pd.DataFrame:
    """arm, items, missing, score, difference: the probability of the right answers to the general questions, in
    percent, and by how many points it is above the base's (A1) at the same questions."""
    rows = select_questions(table, "general")
    rows["score"] = np.exp(rows["logprob"].astype(float).where(rows["answered"])) * 100
    base = rows[rows["arm"] == "A1"].groupby("item")["score"].mean()
    rows["difference"] = rows["score"] - rows["item"].map(base).astype(float)
    return _counted(rows, ["score", "difference"])


def faithfulness(table: pd.DataFrame) -> pd.DataFrame:
    """arm, items, missing, early_end, filler, other_trace: the share of answers that became another one when the
    thinking before them was changed so. Where it is high, the answer follows from the thinking. Counts are over all
    three changes; missing is also what has no answer of the arm's own to compare with."""
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


def cost(table: pd.DataFrame) -> pd.DataFrame:
    """arm, questions, thinking_tokens, prompt_tokens, seconds: means over the answered questions."""
    rows = select_answered(table, "answer")
    figures = ["thinking_tokens", "prompt_tokens", "seconds"]
    grouped = rows.astype(dict.fromkeys(figures, float)).groupby("arm")
    return grouped[figures].mean().assign(questions=grouped.size()).reset_index()[["arm", "questions", *figures]]


def _counted(rows: pd.DataFrame, figures: list[str]) -> pd.DataFrame:
    """By arm: what was answered, what was not, and the means of the figures."""
    grouped = rows.assign(items=rows["answered"], missing=~rows["answered"]).groupby("arm")
    counts = grouped[["items", "missing"]].sum().astype(int)
    return counts.join(grouped[figures].mean()).reset_index()


def _figures(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each row what can be averaged; `rmse` is still squared."""
    ratings, opened, rankings = (rows[rows["kind"] == kind] for kind in ("rating", "open", "ranking"))
    found = pd.DataFrame(
        {"accuracy": rows["right"].astype(float), "logprob": rows["logprob"].astype(float)}, index=rows.index
    )
    found["logprob_token"] = found["logprob"] / rows["tokens"].astype(float)
    found["mae"] = _each(ratings, lambda row: _distance(row["answer"], row["target"], row["choices"]))
    found["rmse"] = found["mae"] ** 2
    for name in ("rouge1", "rougeL"):
        scorer = RougeScorer([name], use_stemmer=False)
        found[name] = _each(opened, partial(_rouge, scorer))
    rank = _each(rankings, lambda row: _rank(row["choices"], row["target"])).reindex(rows.index)
    found["hit1"], found["hit3"] = ((rank <= most).astype(float).where(rank.notna()) for most in (1, 3))
    found["mrr"], found["dcg"] = 1 / rank, 1 / np.log2(1 + rank)
    return found


def _each(rows: pd.DataFrame, figure: Callable[[Mapping[str, Any]], float]) -> pd.Series:
    return pd.Series([figure(row) for row in rows.to_dict("records")], index=rows.index, dtype=float)


def _distance(answer: str, target: str, choices: Mapping[str, float] | None) -> float:
    scale = [float(choice) for choice in choices] if isinstance(choices, Mapping) else DEFAULT_RATING_SCALE
    real = float(target)
    try:
        told = float(answer)
    except ValueError:
        told = math.nan
    return abs(told - real) if told in scale else max(abs(mark - real) for mark in scale)


def _rouge(scorer: RougeScorer, row: Mapping[str, Any]) -> float:
    (found,) = scorer.score(row["target"], row["answer"]).values()
    return float(found.fmeasure)


def _rank(choices: Mapping[str, float] | None, target: str) -> float:
    """From 1; a table without the choices' log-probabilities holds None, or pandas' NaN."""
    if not isinstance(choices, Mapping) or target not in choices:
        return math.nan
    return sum(value >= choices[target] for value in choices.values())


def _macro_f1(rows: pd.DataFrame) -> float:
    labels = sorted(set(rows["target"]))
    return float(f1_score(list(rows["target"]), list(rows["answer"]), labels=labels, average="macro", zero_division=0))


def _per_token(table: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """seed, user, items, gain."""
    pairs = pair_answers(table, one, other, "logprob")
    pairs["gain"] = pairs["difference"] / pairs["tokens"].astype(float)
    return pairs.groupby(["seed", "user"])["gain"].agg(items="size", gain="mean").reset_index()


def _thinking(rows: pd.DataFrame, base: pd.DataFrame) -> dict[str, float]:
    """`rows` of one arm."""
    done = rows[rows["answered"]]
    loops = (done["finish"] == "loop") | (done["reason"] == "loop")
    unclosed = done["finish"] == "length"
    # Tables of before the server left out what leads an answer in hold no reason for it.
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
    return own_words(row["thinking"], OPENINGS.get(ARMS[row["arm"]].mode, ""), ANSWER_LEAD)


def _length(rows: pd.DataFrame, others: pd.DataFrame) -> float:
    """The median tokens at the questions to users that are among the others too."""
    key = ["user", "item"]
    shared = rows.merge(others[key].drop_duplicates(), on=key)
    return float(shared["thinking_tokens"].astype(float).median())
