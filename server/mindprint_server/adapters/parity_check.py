"""The parity check: proof that the engine runs exactly the adapter that was trained.

With the adapter the engine must reproduce the trainer's log-probabilities of a few prompts, and they must differ from
those of the base model. How far they may be apart depends on how much the adapter changes (decision 045).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mindprint.types import ParityItem, ParityResult
from mindprint_server.engine import AdapterRef, Engine, Priority
from mindprint_server.settings import AdapterSettings

MAX_LOG_ODDS = 11.5
"""Log-odds beyond this are cut: 11.5 is a probability of 0.99999. Above it float32 has no digits left to compare."""
MIN_LOG_ODDS_DIFFERENCE = 0.005
"""Difference in log-odds a token that arithmetic alone may make, however small the effect of the adapter is."""


@dataclass(frozen=True)
class ParityBounds:
    """How far the engine may be from the trainer.

    Attributes:
        tolerance: Maximum mean distance of log-probabilities from the trainer's, in nats a token.
        tolerance_share: The same in log-odds, as a share of what the adapter changes.
        min_shift: Minimum mean distance from the engine without the adapter, in nats a token.
    """

    tolerance: float
    tolerance_share: float
    min_shift: float

    @classmethod
    def of(cls, settings: AdapterSettings) -> ParityBounds:
        """Return the bounds that the settings name."""
        return cls(
            tolerance=settings.parity_tolerance_nats,
            tolerance_share=settings.parity_tolerance_share,
            min_shift=settings.parity_min_shift_nats,
        )


@dataclass(frozen=True)
class ParityLogprobs:
    """Log-probabilities of the same tokens, in nats.

    Attributes:
        engine: Values of the engine with the adapter.
        base: Values of the engine without it.
        trainer: Values of the trainer with the adapter.
        trainer_base: Values of the trainer without it.
    """

    engine: Sequence[float]
    base: Sequence[float]
    trainer: Sequence[float]
    trainer_base: Sequence[float]

    @property
    def is_finite(self) -> bool:
        """Return whether all values are finite numbers."""
        return all(map(math.isfinite, (*self.engine, *self.base, *self.trainer, *self.trainer_base)))


def compare_logprobs(values: ParityLogprobs, bounds: ParityBounds) -> ParityResult:
    """Compare what the engine computed with what the trainer measured.

    The effect of an adapter is compared in log-odds, log p - log(1 - p). Half of an adapter changes them by about half,
    whether a token is likely or not. Log-probabilities of likely tokens hardly tell half an effect from a whole one.

    Args:
        values: The log-probabilities.
        bounds: How far they may be apart.
    """
    if not values.is_finite:
        reason: str | None = "a log-probability is not finite: the weights are broken"
        return ParityResult(
            passed=False, against_trainer=0.0, against_base=0.0, tokens=len(values.trainer), reason=reason
        )
    against_trainer = _distance(values.engine, values.trainer)
    against_base = _distance(values.engine, values.base)
    if against_base < bounds.min_shift:
        least = bounds.min_shift
        reason = f"the engine answers as without the adapter: {against_base:.4f} nats a token apart, {least} needed"
    elif against_trainer > bounds.tolerance:
        reason = (
            f"the engine is {against_trainer:.4f} nats a token from the trainer's values, {bounds.tolerance} allowed"
        )
    elif against_trainer >= _distance(values.base, values.trainer):
        reason = "the engine with the adapter is no nearer to the trainer's values than without it"
    else:
        reason = _other_effect(values, bounds.tolerance_share)
    return ParityResult(
        passed=reason is None,
        against_trainer=against_trainer,
        against_base=against_base,
        tokens=len(values.trainer),
        reason=reason,
    )


def _other_effect(values: ParityLogprobs, tolerance_share: float) -> str | None:
    """Return why the adapter does something else on the engine than at the trainer; None if it does not."""
    engine, base, trainer, trainer_base = (
        [_log_odds(value) for value in one] for one in (values.engine, values.base, values.trainer, values.trainer_base)
    )
    # The smaller of two measures of the effect: a wrong value of the trainer's base cannot widen the bound.
    effect = min(_distance(trainer, trainer_base), _distance(trainer, base))
    difference = _distance(engine, trainer)
    if difference <= max(MIN_LOG_ODDS_DIFFERENCE, tolerance_share * effect):
        return None
    return (
        f"the adapter has another effect on the engine: its log-odds are {difference:.4f} a token from the trainer's, "
        f"{tolerance_share:g} of its effect of {effect:.4f} allowed"
    )


def _log_odds(logprob: float) -> float:
    """Return log p - log(1 - p), at most `MAX_LOG_ODDS`."""
    # -expm1(log p) is 1 - p without a loss of digits.
    rest = -math.expm1(logprob)
    return min(MAX_LOG_ODDS, logprob - math.log(rest)) if rest > 0 else MAX_LOG_ODDS


def _distance(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the mean absolute difference."""
    return sum(abs(value - other) for value, other in zip(values, others, strict=True)) / len(values)


async def check_parity(
    engine: Engine,
    adapter: AdapterRef,
    parity_items: Sequence[ParityItem],
    *,
    bounds: ParityBounds,
    wait_until_idle: Callable[[], Awaitable[None]],
) -> ParityResult:
    """Score the target tokens on the engine, with and without the adapter, and compare with the trainer's values.

    Args:
        engine: The serving engine.
        adapter: The version, loaded in the engine.
        parity_items: Prompts and target tokens with the trainer's log-probabilities.
        bounds: How far they may be apart.
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
    trainer_base = [value for item in parity_items for value in item.base_logprobs]
    return compare_logprobs(ParityLogprobs(with_adapter, without, trainer, trainer_base), bounds)
