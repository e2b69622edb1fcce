"""Made-up outcomes of an evaluation: the same every time, and such that the arms differ as the method says they do.

`made()` is a whole table; `outcome()` is one row for tests by hand, and `table()` makes a frame of such rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from mindprint_eval.arms import BARE_THINKING_ARMS, GENERAL_QUESTION_ARMS, PERTURBED_ARMS, REVERSED_ARMS
from mindprint_eval.results import COLUMNS, Outcome


@dataclass(frozen=True)
class Way:
    """How an arm behaves: `lift` is what it adds to the score of the real answer, in nats."""

    lift: float
    thinks: bool = False
    collapse: float = 0.0
    adapter: bool = True
    words: int = 24


WAYS: Mapping[str, Way] = {
    "A0": Way(0.0, adapter=False),
    "A1": Way(0.4, adapter=False),
    "A2": Way(0.1, thinks=True, collapse=0.1, adapter=False),
    "A3": Way(0.5, thinks=True, collapse=0.1, adapter=False),
    "A4": Way(0.8, adapter=False),
    "A5": Way(1.5),
    "A6": Way(0.6, thinks=True, collapse=0.9, words=5),
    "A7": Way(1.3, thinks=True, collapse=0.1),
    "A8": Way(1.5),
    "A9": Way(1.7, thinks=True, collapse=0.05),
    "A9-direct": Way(1.5),
    "C1": Way(0.2, thinks=True, collapse=0.1),
    "C2": Way(0.9, thinks=True, collapse=0.1),
    "C3-nearest": Way(1.0, thinks=True, collapse=0.05),
    "C3-random": Way(1.2, thinks=True, collapse=0.05),
    "C3-none": Way(1.3, thinks=True, collapse=0.05),
    "majority": Way(0.7, adapter=False),
    "copy": Way(0.5, adapter=False),
    "tfidf": Way(1.0, adapter=False),
}
RIVALS = ("majority", "copy", "tfidf")
USERS = ("ann", "bob", "cid", "dee", "eve")
CHOICES: Mapping[str, Sequence[str]] = {
    "closed": ("agree", "disagree", "pass"),
    "rating": ("1", "2", "3", "4", "5"),
    "ranking": ("[A]", "[B]", "[C]", "[D]"),
}
WORDS = ("a", "long", "walk", "by", "the", "quiet", "lake", "in", "early", "spring")


def outcome(**changes: Any) -> Outcome:
    """One answered question of the direct arm A1, with `changes`."""
    row: dict[str, Any] = {
        "measure": "answer", "arm": "A1", "seed": 0, "user": "ann", "item": "e0", "kind": "closed", "seen": False,
        "outcome": "answered", "why": "", "target": "agree", "answer": "agree", "right": True, "logprob": -0.5,
        "tokens": 1, "choices": None, "thinking": "", "thinking_tokens": 0, "finish": "stop", "reason": None,
        "prompt_tokens": 100, "seconds": 1.0,
    }  # fmt: skip
    return Outcome(**{**row, **changes})


def unanswered(state: str, **changes: Any) -> Outcome:
    """A question that got no answer: `no_adapter`, `refused` or `failed`."""
    nothing = {"why": f"made to be {state}", "answer": "", "right": None, "logprob": None, "finish": "", "seconds": 0.0}
    return outcome(**{"outcome": state, **nothing, **changes})


def table(rows: Iterable[Outcome]) -> pd.DataFrame:
    """As the file of outcomes is read: all columns, even without rows."""
    found = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    return found.astype({"logprob": float, "seconds": float})


def made(
    *,
    arms: Iterable[str] = tuple(WAYS),
    users: Sequence[str] = USERS,
    items: int = 8,
    seeds: Sequence[int] = (0, 1),
    kind: str = "closed",
    without_adapter: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """All measures of the arms. The users `without_adapter` have no answers where an adapter of their own is needed."""
    return table(
        row
        for arm in arms
        for run in seeds
        for user in users
        for row in _of_user(arm, run, user, items, kind, user in without_adapter, f"{seed}")
    )


def _of_user(arm: str, run: int, user: str, items: int, kind: str, lacks: bool, seed: str) -> Iterator[Outcome]:
    way = WAYS[arm]
    for number in range(items):
        answer = _answer(arm, run, user, number, kind, seed)
        if lacks and way.adapter:
            same = {"arm": arm, "seed": run, "user": user, "item": answer.item, "kind": kind, "target": answer.target}
            yield unanswered("no_adapter", **same, seen=answer.seen, tokens=answer.tokens)
            continue
        yield answer
        changed = asdict(answer)
        if arm in BARE_THINKING_ARMS:
            yield Outcome(**{**changed, "measure": "bare", **_bare(way, f"{seed}/bare/{arm}/{run}/{user}/{number}")})
        if arm in REVERSED_ARMS and kind == "closed":
            dice = random.Random(f"{seed}/reversed/{arm}/{run}/{user}/{number}")
            told = f"not {answer.answer}" if dice.random() < 0.2 else answer.answer
            yield Outcome(**{**changed, "measure": "reversed", "answer": told, "right": told == answer.target})
        if arm in PERTURBED_ARMS:
            for measure, rate in (("early_end", 0.5), ("filler", 0.3), ("other_trace", 0.4)):
                dice = random.Random(f"{seed}/{measure}/{arm}/{run}/{user}/{number}")
                told = f"not {answer.answer}" if dice.random() < rate else answer.answer
                yield Outcome(**{**changed, "measure": measure, "answer": told, "right": told == answer.target})
    if arm in GENERAL_QUESTION_ARMS and not (lacks and way.adapter):
        for number in range(4):
            logprob = -0.3 - random.Random(f"{seed}/general/{number}").random() - 0.02 * way.lift
            yield outcome(
                measure="general", arm=arm, seed=run, user=user, item=f"g{number}", seen=None, logprob=logprob
            )


def _answer(arm: str, run: int, user: str, number: int, kind: str, seed: str) -> Outcome:
    """What an arm makes of a question: questions differ in how hard they are, for all arms alike."""
    way = WAYS[arm]
    question, dice = random.Random(f"{seed}/{user}/{number}"), random.Random(f"{seed}/{arm}/{run}/{user}/{number}")
    ease = question.gauss(0.0, 0.7)
    same: dict[str, Any] = {
        "arm": arm, "seed": run, "user": user, "item": f"{user}-e{number}", "kind": kind,
        "seen": question.random() < 0.3, "prompt_tokens": 0 if arm in RIVALS else 300,
        "seconds": 0.0 if arm in RIVALS else round(0.5 + dice.random() + 2.0 * way.thinks, 3),
        "finish": "" if arm in RIVALS else "stop", **_thinking(way, dice),
    }  # fmt: skip
    if kind == "open":
        target = question.sample(WORDS, 6)
        told = [word if dice.random() < 0.3 + way.lift / 4 else "rain" for word in target]
        logprob = len(target) * min(-0.1, -2.5 + 0.4 * (way.lift + ease))
        return outcome(
            **same, target=" ".join(target), answer=" ".join(told), right=None, logprob=logprob, tokens=len(target)
        )
    choices = CHOICES[kind]
    target_choice = question.choice(choices)
    scores = {choice: dice.gauss(0.0, 0.5) + (choice == target_choice) * (way.lift + ease) for choice in choices}
    whole = math.log(sum(map(math.exp, scores.values())))
    logprobs = {choice: score - whole for choice, score in scores.items()}
    best = max(choices, key=lambda choice: logprobs[choice])
    known = arm != "copy"  # which gives an answer and no probabilities
    return outcome(
        **same,
        target=target_choice,
        answer=best,
        right=best == target_choice,
        logprob=logprobs[target_choice] if known else None,
        choices=logprobs if known else None,
        tokens=1 + question.randrange(2),
    )


def _thinking(way: Way, dice: random.Random) -> dict[str, Any]:
    words = max(1, round(dice.gauss(way.words, 3.0))) if way.thinks else 0
    return {"thinking": " ".join(WORDS[i % len(WORDS)] for i in range(words)), "thinking_tokens": words}


def _bare(way: Way, seed: str) -> dict[str, Any]:
    dice = random.Random(seed)
    if dice.random() >= way.collapse:
        return {**_thinking(way, dice), "finish": "stop", "reason": None}
    thinking, tokens, finish, reason = dice.choice(
        [("so so so so so", 40, "loop", "loop"), ("", 0, "stop", "empty"), ("and then", 200, "length", "parse")]
    )
    return {"thinking": thinking, "thinking_tokens": tokens, "finish": finish, "reason": reason}
