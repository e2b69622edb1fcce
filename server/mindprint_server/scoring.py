"""How likely an answer is: closed choices by their labels' tokens, open ones token by token, on the cached prefix.

An open answer takes one engine request for each token. That is the fast way where prompt log-probabilities are slow,
miss the prefix cache, or end the engine (docs/decisions/005): 60 tokens after a cached prompt took 0.44 s on CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mindprint_server import labels
from mindprint_server.engine import AdapterRef, Engine, Priority


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


async def likelihood(
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

    scored = await labels.score(answers.ways, engine.tokenizer.eos_id, ask)
    if answers.target is None:
        return Likelihood(None, 0, scored)
    return Likelihood(scored[answers.target], len(answers.ways[answers.target]), scored)
