"""Which engagement is worked on next: user by user, so that a memory is computed once and read many times. Pure.

A few users are active at once, as many as fill the engine's slots; each one's engagements go out in the order of time,
for neighbours in time share their memory. A user who has waited longer than `patience_s` takes the place of the active
one that has been served longest, so that a long history never starves a short one, nor an early batch a later one.
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
    """What one batch wants of one user."""

    items: deque[Item] = field(default_factory=deque)
    running: int = 0
    since: float = 0.0
    """When it began to wait, or, once active, when it was made active."""
    served: float = 0.0
    """When, once active, an item of it went out last."""


class EngagementScheduler:
    """Hands out items; `now` is any monotonic clock, in seconds."""

    def __init__(self, *, per_user: int, patience_s: float) -> None:
        self._per_user = per_user
        self._patience_s = patience_s
        self._queues: dict[_Key, _Queue] = {}
        self._active: list[_Key] = []
        self._waiting: deque[_Key] = deque()

    @property
    def left(self) -> int:
        """Items not handed out yet."""
        return sum(len(queue.items) for queue in self._queues.values())

    @property
    def running(self) -> int:
        return sum(queue.running for queue in self._queues.values())

    def add(self, items: Iterable[Item], now: float) -> None:
        """Queues a batch's items behind what is there, each user's in the order given."""
        for item in items:
            key = (item.batch_id, item.user_id)
            if key not in self._queues:
                self._queues[key] = _Queue(since=now)
                self._waiting.append(key)
            self._queues[key].items.append(item)

    def drop(self, batch_id: str) -> None:
        """Forgets a batch, also what of it is running."""
        for key in [key for key in self._queues if key[0] == batch_id]:
            self._queues[key] = _Queue()
            self._retire(key)

    def finished(self, item: Item) -> None:
        """An item that was handed out is done."""
        key = (item.batch_id, item.user_id)
        if (queue := self._queues.get(key)) is not None:
            queue.running -= 1
            self._retire(key)

    def take(self, room: int, now: float) -> list[Item]:
        """At most `room` items to begin now."""
        taken: list[Item] = []
        self._make_way(now)
        while len(taken) < room:
            if (queue := self._next(now)) is None:
                if not self._waiting:
                    break
                self._activate(now)
                continue
            queue.running += 1
            queue.served = now
            taken.append(queue.items.popleft())
        for key in list(self._active):
            if not self._queues[key].items:
                self._active.remove(key)  # its last items run on; the place is free
        return taken

    def _next(self, now: float) -> _Queue | None:
        """Of the active: the one left alone longest if that is too long, else the first in line."""
        able = [q for q in map(self._queues.__getitem__, self._active) if q.items and q.running < self._per_user]
        if not able:
            return None
        longest = min(able, key=lambda queue: queue.served)
        return longest if now - longest.served > self._patience_s else able[0]

    def _make_way(self, now: float) -> None:
        """Those who waited too long come in; for each, the one that was active longest goes to the end of the line."""
        while self._active and self._waiting and now - self._queues[self._waiting[0]].since > self._patience_s:
            oldest = min(self._active, key=lambda key: self._queues[key].since)
            if now - self._queues[oldest].since <= self._patience_s:
                return  # everybody active came in only just now
            self._active.remove(oldest)
            self._queues[oldest].since = now
            self._waiting.append(oldest)
            self._activate(now)
            self._active.insert(0, self._active.pop())  # it has waited long enough: its turn is now

    def _activate(self, now: float) -> None:
        key = self._waiting.popleft()
        self._queues[key].since = self._queues[key].served = now
        self._active.append(key)

    def _retire(self, key: _Key) -> None:
        queue = self._queues[key]
        if not queue.items:
            if key in self._active:
                self._active.remove(key)
            if key in self._waiting:
                self._waiting.remove(key)
            if not queue.running:
                del self._queues[key]
