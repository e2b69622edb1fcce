"""Limits how many engagements are processed at once: enough to fill the engine's slots and KV cache, not more.

Engagements differ in cost by a factor of ten, so no fixed limit fits. As in TCP's congestion control, the limit
increases additively while nothing waits in the engine. It decreases multiplicatively when the engine preempts requests
or its cache is full.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from mindprint_server.engine import Priority
from mindprint_server.engine.types import EngineStats

KV_FULL = 0.95
"""Share of the KV cache in use by running requests above which no more work is admitted."""
BACK_OFF = 0.75
"""Factor of the multiplicative decrease."""


class ConcurrencyLimiter:
    """An AIMD limiter: `limit` follows the engine's state between 1 and `max_limit`."""

    def __init__(self, *, slots: int, max_limit: int) -> None:
        self._slots = slots
        self._max_limit = max_limit
        self._preemptions: int | None = None
        self.limit = min(slots, max_limit)

    def update(self, stats: EngineStats, *, reserved: int = 0) -> int:
        """Adapt the limit to the engine's current state and return it.

        Args:
            stats: The engine's state.
            reserved: Slots to leave free for answers that somebody waits for.
        """
        slots = max(1, self._slots - reserved)
        preempted = self._preemptions is not None and stats.preemptions > self._preemptions
        self._preemptions = stats.preemptions
        if preempted or stats.kv_use > KV_FULL:
            if stats.running > self.limit:
                return self.limit  # it was decreased already: running requests must end first
            # Decrease from the number that runs: a limit that was never reached does not show how many fit.
            self.limit = max(1, int(min(self.limit, max(stats.running, 1)) * BACK_OFF))
        elif stats.waiting > slots // 4 or (reserved and stats.running > slots):
            # Never below the number of slots: with a queue the engine still fills all of them.
            self.limit = max(min(self.limit, slots), self.limit - 1)
        elif stats.waiting == 0 and stats.running < slots:
            self.limit = min(self._max_limit, self.limit + max(1, self._slots // 16))
        return self.limit


@dataclass
class CacheReservation:
    """One engagement's tokens in the KV cache."""

    budget: CacheBudget
    deferred: bool
    """Whether the cache had no room. The engagement's requests then run after all others."""

    @property
    def priority(self) -> Priority:
        """Priority of the engagement's requests in the engine."""
        return Priority.BATCH_DEFERRED if self.deferred else Priority.BATCH

    def mark_started(self) -> None:
        """Record that the first request was answered: the prompt is cached, so the others share it."""
        self.budget.deferred -= self.deferred
        self.deferred = False


@dataclass
class CacheBudget:
    """Tokens of the KV cache that the engagements being processed need."""

    used: int = field(default=0, init=False)
    """Tokens of all reservations: prompts, and what may be generated after them."""
    deferred: int = field(default=0, init=False)
    """Number of engagements that have not started because the cache had no room."""

    @contextlib.contextmanager
    def reserve(self, tokens: int, capacity: int | None) -> Iterator[CacheReservation]:
        """Reserve tokens for as long as an engagement is processed.

        Args:
            tokens: Tokens of its prompt and of what may be generated after it.
            capacity: Tokens that the cache holds; None: no limit.
        """
        # While others are deferred, a later engagement is deferred too, even if it fits: the others would starve.
        deferred = capacity is not None and (self.deferred > 0 or self.used + tokens > capacity)
        reservation = CacheReservation(self, deferred)
        self.used += tokens
        self.deferred += deferred
        try:
            yield reservation
        finally:
            reservation.mark_started()
            self.used -= tokens
