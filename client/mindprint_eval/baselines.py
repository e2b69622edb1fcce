"""Baselines without a language model: the least that an arm has to beat.

A baseline knows the engagements that an adapter of the user would be trained on, and nothing of other users.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import linear_kernel
from sklearn.pipeline import make_pipeline

from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.types import Engagement
from mindprint_eval.results import Outcome

BASELINES = ("majority", "copy", "tfidf")
NO_PAST_ANSWER = "no past answer is among the choices"
NO_CHOICES = "an open question has no choices"
ONE_CLASS = "one class only: majority"


@dataclass(frozen=True)
class _Said:
    answer: str
    logprobs: Mapping[str, float] | None = None
    why: str = ""


_Baseline = Callable[[str, Sequence[str]], _Said]
"""Of a query and its choices, none if it is open. Called only where `_cannot` has nothing against it."""


def answer_with_baselines(
    users: Sequence[UserDataset], seed: int, tokens: Callable[[str], int] = lambda answer: 1
) -> list[Outcome]:
    """Answer every held-out question with each baseline.

    majority: the user's commonest answer. Its log-probabilities are of frequencies with one added to each choice.
    copy: the answer to the most similar past question, by cosine over TF-IDF; of equal ones the newest. It gives no
    probabilities.
    tfidf: logistic regression over TF-IDF with scikit-learn's settings. For a user with one answer it is the majority,
    and `why` says so. No choice gets less than 1 / (engagements + choices), as a new choice does in the majority.
    A baseline has `failed` where the user took none of the choices before. On open questions all but copy have failed.

    Args:
        users: The users with engagements and held-out questions.
        seed: The seed that outcomes are marked with.
        tokens: Length of an answer in the model's tokens.
    """
    return [
        _outcome(name, past, say, user.user_id, row, seed, tokens)
        for user in users
        for name, past, say in _of(user, seed)
        for row in user.held_out
    ]


def _of(user: UserDataset, seed: int) -> Iterator[tuple[str, Sequence[Engagement], _Baseline]]:
    """Each with the engagements that it goes by."""
    closed = [e for e in user.engagements if e.choices]
    yield "majority", closed, _majority(closed)
    yield "copy", user.engagements, _copy(user.engagements)
    yield "tfidf", closed, _tfidf(closed, seed)


def _majority(past: Sequence[Engagement]) -> _Baseline:
    counts = Counter(e.response for e in past)
    return lambda query, choices: _likeliest({choice: counts[choice] + 1.0 for choice in choices})


def _copy(past: Sequence[Engagement]) -> _Baseline:
    newest_first = past[::-1]
    vectorizer = _vectorizer()
    vectors = vectorizer.fit_transform([e.prompt for e in newest_first]) if past else None

    def say(query: str, choices: Sequence[str]) -> _Said:
        alike = linear_kernel(vectorizer.transform([query]), vectors)[0]
        fit = [n for n, e in enumerate(newest_first) if not choices or e.response in choices]
        return _Said(newest_first[max(fit, key=lambda n: alike[n])].response)

    return say


def _tfidf(past: Sequence[Engagement], seed: int) -> _Baseline:
    if len({e.response for e in past}) < 2:
        majority = _majority(past)
        return lambda query, choices: replace(majority(query, choices), why=ONE_CLASS)
    model = make_pipeline(_vectorizer(), LogisticRegression(max_iter=1000, random_state=seed))
    model.fit([e.prompt for e in past], [e.response for e in past])
    classes = [str(name) for name in model.classes_]

    def say(query: str, choices: Sequence[str]) -> _Said:
        known = dict(zip(classes, map(float, model.predict_proba([query])[0]), strict=True))
        floor = 1 / (len(past) + len(choices))
        return _likeliest({choice: max(known.get(choice, 0.0), floor) for choice in choices})

    return say


def _vectorizer() -> TfidfVectorizer:
    """Words and pairs of them. Single letters and signs count as words, so that no question is empty."""
    return TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True)


def _likeliest(weights: Mapping[str, float]) -> _Said:
    """Of equals the first choice."""
    whole = sum(weights.values())
    logprobs = {choice: math.log(weight / whole) for choice, weight in weights.items()}
    return _Said(max(logprobs, key=lambda choice: logprobs[choice]), logprobs)


def _cannot(name: str, past: Sequence[Engagement], choices: Sequence[str]) -> str:
    """Why; empty if it can."""
    if not choices and name != "copy":
        return NO_CHOICES
    return "" if any(not choices or e.response in choices for e in past) else NO_PAST_ANSWER


def _outcome(
    name: str,
    past: Sequence[Engagement],
    say: _Baseline,
    user: str,
    row: HeldOutQuestion,
    seed: int,
    tokens: Callable[[str], int],
) -> Outcome:
    choices = row.choices or []
    why = _cannot(name, past, choices)
    said = _Said("", why=why) if why else say(row.query, choices)
    return Outcome(
        measure="answer",
        arm=name,
        seed=seed,
        user=user,
        item=row.id,
        kind=row.kind,
        seen=row.seen,
        outcome="failed" if why else "answered",
        why=said.why,
        target=row.target,
        answer=said.answer,
        right=said.answer == row.target if choices and not why else None,
        logprob=said.logprobs[row.target] if said.logprobs else None,
        tokens=max(1, tokens(row.target)),
        choices=said.logprobs,
        thinking="",
        thinking_tokens=0,
        finish="",
        reason=None,
        prompt_tokens=0,
        seconds=0.0,
    )
