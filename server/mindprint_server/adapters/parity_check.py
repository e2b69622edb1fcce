"""The parity check: proof that the engine runs exactly the adapter that was trained.

With the adapter the engine must reproduce the trainer's log-probabilities of a few prompts, and they must differ from
those of the base model.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from mindprint.types import ParityItem, ParityResult
from mindprint_server.engine import AdapterRef, Engine, Priority


def compare_logprobs(
    engine: Sequence[float], base: Sequence[float], trainer: Sequence[float], *, tolerance: float, min_shift: float
) -> ParityResult:
    """Compare log-probabilities of the same tokens, in nats.

    Args:
        engine: Values of the engine with the adapter.
        base: Values of the engine without the adapter.
        trainer: Values that the trainer computed with the adapter.
        tolerance: Maximum mean distance between `engine` and `trainer`, in nats a token.
        min_shift: Minimum mean distance between `engine` and `base`, in nats a token.
    """
    count = len(trainer)

    def distance(values: Sequence[float], others: Sequence[float]) -> float:
        return sum(abs(value - other) for value, other in zip(values, others, strict=True)) / count

    against_trainer, against_base = distance(engine, trainer), distance(engine, base)
    reason = None
    if not all(map(math.isfinite, (*engine, *base, *trainer))):
        against_trainer = against_base = 0.0
        reason = "a log-probability is not finite: the weights are broken"
    elif against_base < min_shift:
        reason = f"the engine answers as without the adapter: {against_base:.4f} nats a token apart, {min_shift} needed"
    elif against_trainer > tolerance:
        reason = f"the engine is {against_trainer:.4f} nats a token from the trainer's values, {tolerance} allowed"
    elif against_trainer >= distance(base, trainer):
        reason = "the engine with the adapter is no nearer to the trainer's values than without it"
    return ParityResult(
        passed=reason is None,
        against_trainer=against_trainer,
        against_base=against_base,
        tokens=count,
        reason=reason,
    )


async def check_parity(
    engine: Engine,
    adapter: AdapterRef,
    parity_items: Sequence[ParityItem],
    *,
    tolerance: float,
    min_shift: float,
    wait_until_idle: Callable[[], Awaitable[None]],
) -> ParityResult:
    """Score the target tokens on the engine, with and without the adapter, and compare with the trainer's values.

    Args:
        engine: The serving engine.
        adapter: The version, loaded in the engine.
        parity_items: Prompts and target tokens with the trainer's log-probabilities.
        tolerance: See `compare_logprobs`.
        min_shift: See `compare_logprobs`.
        wait_until_idle: Awaited before each token, so that interactive requests go first.
    """

    async def score(item: ParityItem, using: AdapterRef | None) -> list[float]:
        logprobs: list[float] = []
        for step, token in enumerate(item.target_ids):
            await wait_until_idle()
            before = [*item.prompt_ids, *item.target_ids[:step]]
            logprobs += await engine.next_logprobs(before, [token], adapter=using, priority=Priority.PARITY_CHECK)
        return logprobs

    # Score one token at a time, so that an interactive request waits for one short engine step at most.
    with_adapter, without = [
        [value for item in parity_items for value in await score(item, using)] for using in (adapter, None)
    ]
    trainer = [value for item in parity_items for value in item.logprobs]
    return compare_logprobs(with_adapter, without, trainer, tolerance=tolerance, min_shift=min_shift)
