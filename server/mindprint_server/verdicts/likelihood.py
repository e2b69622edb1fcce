"""Closed choices, scored by the log-probabilities of their labels over a trie of their tokens.

The distribution is that of constrained decoding: at each node where labels part, the model's probabilities of the
children are normalized over the children, and a label's probability is the product along its way. One engine
request for each node where labels part: one in all where the first tokens differ. Pure but for the `ask` given in.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from mindprint_server.engine import AdapterRef, Engine, Priority

Ask = Callable[[tuple[int, ...], tuple[int, ...]], Awaitable[Sequence[float]]]
"""`ask(path, tokens)`: log-probabilities of each of `tokens` after the prompt and `path`."""


def branch_points(labels: Mapping[str, Sequence[int]], end: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Every path at which labels part, with the tokens that may follow there. A label ends with `end`.

    Raises ValueError if two labels have the same tokens or one has none.
    """
    ways = [(*ids, end) for ids in labels.values()]
    if len(set(ways)) != len(ways) or any(len(way) == 1 for way in ways):
        raise ValueError("two choices read the same to the model, or one reads as nothing: reword them")
    children: dict[tuple[int, ...], dict[int, None]] = {}
    for way in ways:
        for depth, token in enumerate(way):
            children.setdefault(way[:depth], {})[token] = None
    return {path: tuple(tokens) for path, tokens in children.items() if len(tokens) > 1}


def normalize(logprobs: Sequence[float]) -> list[float]:
    """Log-probabilities over the given alternatives only."""
    top = max(logprobs)
    total = top + math.log(sum(math.exp(value - top) for value in logprobs))
    return [value - total for value in logprobs]


async def score_choices(labels: Mapping[str, Sequence[int]], end: int, ask: Ask) -> dict[str, float]:
    """Log-probability of each label, normalized over all of them. Raises ValueError as `branch_points` does."""
    nodes = branch_points(labels, end)
    replies = await asyncio.gather(*(ask(path, tokens) for path, tokens in nodes.items()))
    step = {
        (path, token): value
        for (path, tokens), reply in zip(nodes.items(), replies, strict=True)
        for token, value in zip(tokens, normalize(reply), strict=True)
    }
    return {
        label: sum(step.get((way[:depth], token), 0.0) for depth, token in enumerate(way))
        for label, way in ((label, (*ids, end)) for label, ids in labels.items())
    }


@dataclass(frozen=True)
class Answers:
    """What may be answered, as token ids; for an open question only the real answer."""

    ways: dict[str, list[int]]
    target: str | None
    closed: bool


@dataclass(frozen=True)
class Likelihood:
    """Log-probabilities in nats: of the real answer (None if there is none), and of each choice of a closed question,
    normalized over the choices."""

    target: float | None
    tokens: int
    """Length of what `target` is of."""
    choices: dict[str, float] | None


async def forced(
    engine: Engine, prefix: Sequence[int], ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
) -> list[float]:
    """log p of each of `ids` in turn after `prefix`, in nats. All requests at once: they share the cached prefix."""

    async def one(place: int) -> float:
        before = [*prefix, *ids[:place]]
        [value] = await engine.next_logprobs(before, [ids[place]], adapter=adapter, priority=priority)
        return value

    return list(await asyncio.gather(*(one(place) for place in range(len(ids)))))


async def score_answers(
    engine: Engine,
    prefix: Sequence[int],
    answers: Answers,
    *,
    adapter: AdapterRef | None,
    priority: Priority,
) -> Likelihood:
    """How likely each answer is after `prefix`. Raises ValueError for choices that read the same to the model."""
    if not answers.closed:
        assert answers.target is not None
        ids = answers.ways[answers.target]
        values = await forced(engine, prefix, ids, adapter=adapter, priority=priority)
        return Likelihood(sum(values), len(ids), None)

    async def ask(path: tuple[int, ...], tokens: tuple[int, ...]) -> list[float]:
        return await engine.next_logprobs([*prefix, *path], tokens, adapter=adapter, priority=priority)

    scored = await score_choices(answers.ways, engine.tokenizer.eos_id, ask)
    if answers.target is None:
        return Likelihood(None, 0, scored)
    return Likelihood(scored[answers.target], len(answers.ways[answers.target]), scored)
