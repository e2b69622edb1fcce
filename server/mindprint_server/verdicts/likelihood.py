"""Log-probabilities of answers: of the real one, and of each choice of a closed question.

The choices are scored over a trie of their tokens. Their distribution is that of constrained decoding: at each branch
point the model's probabilities of the children are normalized over the children, and a choice's probability is the
product along its path. Each branch point takes one engine request; one is enough if all first tokens differ.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from mindprint_server.engine import AdapterRef, Engine, Priority

TokenScorer = Callable[[tuple[int, ...], tuple[int, ...]], Awaitable[Sequence[float]]]
"""`scorer(path, tokens)` returns the log-probability of each of `tokens` after the prompt and `path`, in nats."""


@dataclass(frozen=True)
class AnswerTokens:
    """The possible answers as token ids: all choices, or for an open question only the real answer."""

    ids: dict[str, list[int]]
    target: str | None
    """The real answer, a key of `ids`; None where it is not known."""
    is_closed: bool


@dataclass(frozen=True)
class Likelihood:
    """Log-probabilities of the answers after one prompt, in nats."""

    target: float | None
    """Log-probability of the real answer, normalized over the choices if there are any. None without a real answer."""
    target_tokens: int
    """Number of tokens whose log-probabilities `target` sums."""
    choices: dict[str, float] | None
    """Log-probability of each choice, normalized over the choices; None for an open question."""


def likeliest(choices: Mapping[str, float]) -> str:
    """Return the choice with the highest log-probability; of equal ones the first by its text, in whatever order."""
    return min(choices, key=lambda choice: (-choices[choice], choice))


def branch_points(choices: Mapping[str, Sequence[int]], end_id: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Return every path at which the choices' tokens differ, with the tokens that may follow it.

    Args:
        choices: Token ids of each choice.
        end_id: Token that ends a choice.

    Raises:
        ValueError: Two choices have the same tokens, or one has none.
    """
    paths = [(*ids, end_id) for ids in choices.values()]
    if len(set(paths)) != len(paths) or any(len(path) == 1 for path in paths):
        raise ValueError("two choices have the same tokens, or one has no tokens: reword them")
    children: dict[tuple[int, ...], dict[int, None]] = {}
    for path in paths:
        for depth, token in enumerate(path):
            children.setdefault(path[:depth], {})[token] = None
    return {path: tuple(tokens) for path, tokens in children.items() if len(tokens) > 1}


def normalize(logprobs: Sequence[float]) -> list[float]:
    """Return log-probabilities over the given alternatives only."""
    top = max(logprobs)
    total = top + math.log(sum(math.exp(value - top) for value in logprobs))
    return [value - total for value in logprobs]


async def score_choices(choices: Mapping[str, Sequence[int]], end_id: int, scorer: TokenScorer) -> dict[str, float]:
    """Return the log-probability of each choice, normalized over all of them, in nats.

    Args:
        choices: Token ids of each choice.
        end_id: Token that ends a choice.
        scorer: Called once for each branch point.

    Raises:
        ValueError: Two choices have the same tokens, or one has none.
    """
    branches = branch_points(choices, end_id)
    replies = await asyncio.gather(*(scorer(path, tokens) for path, tokens in branches.items()))
    steps = {
        (path, token): value
        for (path, tokens), reply in zip(branches.items(), replies, strict=True)
        for token, value in zip(tokens, normalize(reply), strict=True)
    }
    return {
        choice: sum(steps.get((path[:depth], token), 0.0) for depth, token in enumerate(path))
        for choice, path in ((choice, (*ids, end_id)) for choice, ids in choices.items())
    }


async def sequence_logprobs(
    engine: Engine, prefix: Sequence[int], ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
) -> list[float]:
    """Return the log-probability of each of `ids` after `prefix` and the ids before it, in nats.

    All requests are sent at once: they share the cached prefix.
    """

    async def one(position: int) -> float:
        before = [*prefix, *ids[:position]]
        [value] = await engine.next_logprobs(before, [ids[position]], adapter=adapter, priority=priority)
        return value

    return list(await asyncio.gather(*(one(position) for position in range(len(ids)))))


async def score_answers(
    engine: Engine,
    prefix: Sequence[int],
    answers: AnswerTokens,
    *,
    adapter: AdapterRef | None,
    priority: Priority,
) -> Likelihood:
    """Return how likely each answer is after `prefix`.

    Args:
        engine: Scores the tokens.
        prefix: Token ids of the prompt, with the thinking where there is one.
        answers: The choices, or the real answer to an open question.
        adapter: The version to score with; None is the base model.
        priority: Priority of the requests in the engine.

    Raises:
        ValueError: Two choices have the same tokens, or one has none.
    """
    if not answers.is_closed:
        assert answers.target is not None
        ids = answers.ids[answers.target]
        values = await sequence_logprobs(engine, prefix, ids, adapter=adapter, priority=priority)
        return Likelihood(sum(values), len(ids), None)

    async def scorer(path: tuple[int, ...], tokens: tuple[int, ...]) -> list[float]:
        return await engine.next_logprobs([*prefix, *path], tokens, adapter=adapter, priority=priority)

    choices = await score_choices(answers.ids, engine.tokenizer.chat_format.end_id, scorer)
    if answers.target is None:
        return Likelihood(None, 0, choices)
    return Likelihood(choices[answers.target], len(answers.ids[answers.target]), choices)
