"""Batches over odd users, texts and models, and what became of them."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from mindprint.types import Batch, BatchRequest, Engagement, Trace
from mindprint_server.engine import Sampling
from mindprint_server.engine.types import FinishReason
from mindprint_server.wiring import Services
from samples import engagement

Open = Callable[..., Awaitable[Services]]
ONE_BY_ONE = {"max_num_seqs": 1}
"""With no room to spare, candidates are drawn one by one."""
NO_BOUNDS = {"min_gain": None, "min_anchor": None, "early_stop_margin_nats": None}
numbers = itertools.count()


async def run(services: Services, **request: Any) -> Batch:
    batch, _ = await services.batches.submit(BatchRequest(**request))
    return await ended(services, batch)


async def ended(services: Services, batch: Batch) -> Batch:
    async for state in services.batches.watch(batch.id):
        batch = state
    return batch


async def about(services: Services, odd: Engagement, **request: Any) -> tuple[Batch, list[Trace]]:
    """A batch over two usual engagements and an odd one after them, and the traces of the odd one."""
    await services.store.engagements.add("ann", [engagement(0), engagement(2), odd])
    batch = await run(services, **request)
    assert (batch.state, batch.error, batch.done) == ("done", None, 3)
    return batch, await services.store.traces.find(engagement=odd.id)


def asked(prompt: str, response: str, choices: list[str] | None = None) -> Engagement:
    fields = {"id": "odd", "prompt": prompt, "response": response, "choices": choices}
    return Engagement.model_validate(fields | {"occurred_at": engagement(9).occurred_at})


def counted(services: Services, name: str, **labels: str) -> float:
    return services.metrics.registry.get_sample_value(f"mindprint_{name}_total", labels) or 0.0


async def good(prompt: str, sampling: Sampling) -> tuple[str, FinishReason]:
    return f" they walked by the quiet lake {next(numbers)} times before", "stop"


def likes_yes(before: str, token: str) -> float:
    return -0.1 if token.strip() == "yes" else -2.4
