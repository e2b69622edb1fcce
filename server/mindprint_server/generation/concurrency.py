"""How many engagements are worked on at once: enough to fill the engine's slots, not so many as to flood it. Pure.

Additive increase while nothing waits in the engine, multiplicative decrease when it preempts or its cache is full, as
in TCP's congestion control: what an engagement costs differs by a factor of ten between users.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from mindprint_server.engine import Priority
from mindprint_server.engine.base import EngineStats

KV_FULL = 0.95
"""Share of the KV cache in use by running requests above which no more work is admitted."""
BACK_OFF = 0.75


class ConcurrencyLimiter:
    """`limit` follows the engine's state between 1 and `most`."""

    def __init__(self, *, slots: int, most: int) -> None:
        self._slots = slots
        self._most = most
        self._preemptions: int | None = None
        self.limit = min(slots, most)

    def observe(self, load: EngineStats) -> int:
        """The limit after one look at the engine."""
        preempted = self._preemptions is not None and load.preemptions > self._preemptions
        self._preemptions = load.preemptions
        if preempted or load.kv_use > KV_FULL:
            if load.running > self.limit:
                return self.limit  # it backed off already, and waits for what runs to end
            # From what really runs: a limit that was never reached says nothing about what fits.
            self.limit = max(1, int(min(self.limit, max(load.running, 1)) * BACK_OFF))
        elif load.waiting > self._slots // 4:
            # Not below the slots: a queue says that there is too much for them, never that they are too many.
            self.limit = max(min(self.limit, self._slots), self.limit - 1)
        elif load.waiting == 0 and load.running < self._slots:
            self.limit = min(self._most, self.limit + max(1, self._slots // 16))
        return self.limit


@dataclass
class CacheReservation:
    """One engagement's, from its first request on."""

    room: CacheBudget
    behind: bool

    @property
    def priority(self) -> Priority:
        return Priority.BATCH_DEFERRED if self.behind else Priority.BATCH

    def began(self) -> None:
        """Its first request was answered: the others share the prompt."""
        self.room.behind -= self.behind
        self.behind = False


@dataclass
class CacheBudget:
    used: int = field(default=0, init=False)
    """Tokens of all that is being worked on: prompts, and what may be thought about them."""
    behind: int = field(default=0, init=False)
    """Engagements that have not begun for want of room."""

    @contextlib.contextmanager
    def take(self, tokens: int, of: int | None) -> Iterator[CacheReservation]:
        """Room for an engagement as long as it is worked on, in a cache of so many tokens (None: any)."""
        # Nobody overtakes those who wait already, though there be room again: they would wait for ever.
        turn = CacheReservation(self, of is not None and (self.behind > 0 or self.used + tokens > of))
        self.used += tokens
        self.behind += turn.behind
        try:
            yield turn
        finally:
            turn.began()
            self.used -= tokens
