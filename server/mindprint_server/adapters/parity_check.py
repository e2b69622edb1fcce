"""Proof that an adapter is live: the engine reproduces the trainer's log-probabilities and leaves the base's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mindprint.types import CanaryItem, CanaryResult
from mindprint_server.admission import Lull
from mindprint_server.engine import AdapterRef, Engine, Priority


def judge(
    engine: Sequence[float], base: Sequence[float], trainer: Sequence[float], *, tolerance: float, min_shift: float
) -> CanaryResult:
    """Compares log-probabilities (nats) of the same tokens: the engine's with and without adapter, the trainer's."""
    count = len(trainer)

    def distance(a: Sequence[float], b: Sequence[float]) -> float:
        return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / count

    against_trainer, against_base = distance(engine, trainer), distance(engine, base)
    reason = None
    if not all(map(math.isfinite, (*engine, *base, *trainer))):
        against_trainer = against_base = 0.0
        reason = "a log-probability is not finite: the weights are broken"
    elif against_base < min_shift:
        reason = f"the engine answers as without the adapter: {against_base:.4f} nats a token apart, {min_shift} wanted"
    elif against_trainer > tolerance:
        reason = f"the engine is {against_trainer:.4f} nats a token from the trainer's values, {tolerance} allowed"
    elif against_trainer >= distance(base, trainer):
        reason = "the engine with the adapter is no nearer to the trainer's values than without it"
    return CanaryResult(
        passed=reason is None,
        against_trainer=against_trainer,
        against_base=against_base,
        tokens=count,
        reason=reason,
    )


async def check_parity(
    engine: Engine,
    adapter: AdapterRef,
    items: Sequence[CanaryItem],
    *,
    tolerance: float,
    min_shift: float,
    lull: Lull,
) -> CanaryResult:
    """Scores every canary token on the engine, with the adapter and without. The adapter must be loaded.

    `lull` is awaited before each token: it returns when the engine may be asked.
    """

    async def scored(item: CanaryItem, using: AdapterRef | None) -> list[float]:
        """Log-probabilities (nats) of its target tokens; `using` None: without adapter."""
        found: list[float] = []
        for step, token in enumerate(item.target_ids):
            await lull()
            before = [*item.prompt_ids, *item.target_ids[:step]]
            found += await engine.next_logprobs(before, [token], adapter=using, priority=Priority.PARITY_CHECK)
        return found

    # One token after the other: whoever chats meanwhile waits for a step of the engine at most, and for a short one.
    with_adapter, without = [
        [value for item in items for value in await scored(item, using)] for using in (adapter, None)
    ]
    trainer = [value for item in items for value in item.logprobs]
    return judge(with_adapter, without, trainer, tolerance=tolerance, min_shift=min_shift)
