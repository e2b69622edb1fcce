"""Schedules the engagements of batches: user by user, so that what a user's prompts share is computed once.

A few users are active at once, as many as fill the engine's slots. Each one's engagements start in the order of time:
neighbors in time share the profile and, with `recall=recency`, most engagements in the prompt. A user who has waited
longer than `max_starvation_s` takes the place of the user who was active longest. So a long history does not starve a
short one, nor an early batch a later one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """One engagement of one batch."""

    batch_id: str
    user_id: str
    engagement_id: str


_Key = tuple[str, str]
"""Batch and user."""


@dataclass
class _Queue:
    """The items of one batch and one user."""

    items: deque[Item] = field(default_factory=deque)
    running: int = 0
    since: float = 0.0
    """Time when the queue began to wait or, for an active queue, when it became active."""
    last_started: float = 0.0
    """Time when the newest item was started; for a queue that just became active, that time."""


class EngagementScheduler:
    """Decides which items start next. It does no I/O; `now` is any monotonic clock, in seconds."""

    def __init__(self, *, max_per_user: int, max_starvation_s: float) -> None:
        self._max_per_user = max_per_user
        self._max_starvation_s = max_starvation_s
        self._queues: dict[_Key, _Queue] = {}
        self._active: list[_Key] = []
        self._waiting: deque[_Key] = deque()

    @property
    def remaining(self) -> int:
        """Count the items that were not started yet."""
        return sum(len(queue.items) for queue in self._queues.values())

    @property
    def running(self) -> int:
        """Count the items that were started and are not finished."""
        return sum(queue.running for queue in self._queues.values())

    def add(self, items: Iterable[Item], now: float) -> None:
        """Queue items behind those of their batch and user, in the order given."""
        for item in items:
            key = (item.batch_id, item.user_id)
            if key not in self._queues:
                self._queues[key] = _Queue(since=now)
                self._waiting.append(key)
            self._queues[key].items.append(item)

    def drop(self, batch_id: str) -> None:
        """Forget a batch, its running items included."""
        for key in [key for key in self._queues if key[0] == batch_id]:
            self._queues[key] = _Queue()
            self._remove_if_empty(key)

    def finish(self, item: Item) -> None:
        """Record that a started item is done."""
        key = (item.batch_id, item.user_id)
        if (queue := self._queues.get(key)) is not None:
            queue.running -= 1
            self._remove_if_empty(key)

    def take(self, limit: int, now: float) -> list[Item]:
        """Return the items to start now, at most `limit`."""
        taken: list[Item] = []
        self._admit_starved(now)
        while len(taken) < limit:
            if (queue := self._next(now)) is None:
                if not self._waiting:
                    break
                self._activate(now)
                continue
            queue.running += 1
            queue.last_started = now
            taken.append(queue.items.popleft())
        for key in list(self._active):
            if not self._queues[key].items:
                self._active.remove(key)  # its last items are still running, but its place is free
        return taken

    def _next(self, now: float) -> _Queue | None:
        """Return the queue to start an item of; None if no active queue has one that may start.

        This is the first active queue, unless another one has started nothing for longer than `max_starvation_s`.
        """
        active = [self._queues[key] for key in self._active]
        startable = [queue for queue in active if queue.items and queue.running < self._max_per_user]
        if not startable:
            return None
        starved = min(startable, key=lambda queue: queue.last_started)
        return starved if now - starved.last_started > self._max_starvation_s else startable[0]

    def _admit_starved(self, now: float) -> None:
        """Activate the queues that waited too long. Each takes the place of the queue that was active longest."""
        while self._active and self._waiting and self._is_starved(self._waiting[0], now):
            oldest = min(self._active, key=lambda key: self._queues[key].since)
            if not self._is_starved(oldest, now):
                return  # all active queues became active only now
            self._active.remove(oldest)
            self._queues[oldest].since = now
            self._waiting.append(oldest)
            self._activate(now)
            self._active.insert(0, self._active.pop())  # it waited too long, so its items start first

    def _is_starved(self, key: _Key, now: float) -> bool:
        """Whether a queue has waited, or was active, for longer than the bound."""
        return now - self._queues[key].since > self._max_starvation_s

    def _activate(self, now: float) -> None:
        key = self._waiting.popleft()
        self._queues[key].since = self._queues[key].last_started = now
        self._active.append(key)

    def _remove_if_empty(self, key: _Key) -> None:
        queue = self._queues[key]
        if not queue.items:
            if key in self._active:
                self._active.remove(key)
            if key in self._waiting:
                self._waiting.remove(key)
            if not queue.running:
                del self._queues[key]
