"""Schedules the engagements of batches: tenants in turn, and each tenant user by user.

The tenant with the fewest engagements in progress starts the next one. So tenants share the engine evenly, however many
batches and users each has.

Of a tenant a few users are active at once, as many as fill its part of the engine's slots. So what a user's prompts
share is computed once. Each one's engagements start in the order of time:
neighbors in time share the profile and, with `recall=recency`, most engagements in the prompt. A user who has waited
longer than `max_starvation_s` takes the place of the user who was active longest. So a long history does not starve a
short one, nor an early batch a later one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """One engagement of one batch."""

    batch_id: str
    user_id: str
    engagement_id: str
    tenant: str = ""


def plan_in_chunks(plan: Iterable[tuple[str, str]], chunk: int) -> list[tuple[str, str]]:
    """Return a plan in which all users take turns, each with some engagements in a row.

    Servers claim items in the order of the plan. So a long history does not keep the others from being claimed, and
    engagements that share a prompt's beginning are claimed together.

    Args:
        plan: (user id, engagement id), each user's in the order in which they are to be worked on.
        chunk: Number of engagements in a row, at least 1.
    """
    by_user: dict[str, deque[tuple[str, str]]] = {}
    for item in plan:
        by_user.setdefault(item[0], deque()).append(item)
    ordered: list[tuple[str, str]] = []
    while by_user:
        for user_id, items in list(by_user.items()):
            ordered += [items.popleft() for _ in range(min(chunk, len(items)))]
            if not items:
                del by_user[user_id]
    return ordered


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
        self._tenants: dict[str, _TenantScheduler] = {}
        """The tenants with items. The one that started an item longest ago is first."""
        self._paused: dict[str, list[Item]] = {}
        """Items by batch of those that may start none, in the order in which they were added."""

    @property
    def tenants(self) -> set[str]:
        """Tenants whose items may start, or run."""
        return set(self._tenants)

    @property
    def remaining(self) -> int:
        """Count the items that were not started yet, without those of paused batches."""
        return sum(tenant.remaining for tenant in self._tenants.values())

    @property
    def running(self) -> int:
        """Count the items that were started and are not finished."""
        return sum(tenant.running for tenant in self._tenants.values())

    def add(self, items: Iterable[Item], now: float) -> None:
        """Queue items behind those of their batch and user, in the order given."""
        for item in items:
            if (paused := self._paused.get(item.batch_id)) is not None:
                paused.append(item)
                continue
            if item.tenant not in self._tenants:
                self._tenants[item.tenant] = _TenantScheduler(
                    max_per_user=self._max_per_user, max_starvation_s=self._max_starvation_s
                )
            self._tenants[item.tenant].add([item], now)

    def drop(self, batch_id: str) -> None:
        """Forget a batch, its running items included."""
        self._paused.pop(batch_id, None)
        for tenant in self._tenants.values():
            tenant.drop(batch_id)
        self._remove_empty()

    def remove(self, item: Item) -> None:
        """Forget an item that was not started; one that was started does not change."""
        if item in (paused := self._paused.get(item.batch_id, [])):
            paused.remove(item)
        if (tenant := self._tenants.get(item.tenant)) is not None:
            tenant.remove(item)
            self._remove_empty()

    def finish(self, item: Item) -> None:
        """Record that a started item is done."""
        if (tenant := self._tenants.get(item.tenant)) is not None:
            tenant.finish(item)
            self._remove_empty()

    def pause(self, batch_id: str) -> None:
        """Start no item of a batch until it is resumed; running ones go on."""
        if batch_id not in self._paused:
            self._paused[batch_id] = [item for tenant in self._tenants.values() for item in tenant.take_out(batch_id)]
            self._remove_empty()

    def resume(self, batch_id: str, now: float) -> None:
        """Let the items of a paused batch start again; another batch does not change."""
        self.add(self._paused.pop(batch_id, []), now)

    def take(self, limit: int, now: float) -> list[Item]:
        """Return the items to start now, at most `limit`."""
        taken: list[Item] = []
        exhausted: set[str] = set()
        while len(taken) < limit and (name := self._next_tenant(exhausted)) is not None:
            if started := self._tenants[name].take(1, now):
                taken += started
                self._tenants[name] = self._tenants.pop(name)  # to the end
            else:
                exhausted.add(name)
        return taken

    def _next_tenant(self, exhausted: set[str]) -> str | None:
        """Return the tenant with the fewest running items, and of several the one that started one longest ago."""
        ready = [name for name, tenant in self._tenants.items() if name not in exhausted and tenant.remaining]
        return min(ready, key=lambda name: self._tenants[name].running, default=None)

    def _remove_empty(self) -> None:
        for name in [name for name, tenant in self._tenants.items() if not tenant.remaining + tenant.running]:
            del self._tenants[name]


class _TenantScheduler:
    """Decides which items of one tenant start next.

    An item costs the same however many users wait: what is counted is kept, and no list of them is searched.

    Attributes:
        remaining: Number of items that were not started yet.
        running: Number of items that were started and are not finished.
    """

    def __init__(self, *, max_per_user: int, max_starvation_s: float) -> None:
        self._max_per_user = max_per_user
        self._max_starvation_s = max_starvation_s
        self._queues: dict[_Key, _Queue] = {}
        self._active: list[_Key] = []
        """As many as fill the slots, so that it is short."""
        self._waiting: OrderedDict[_Key, None] = OrderedDict()
        """All others with items, the one that waited longest first."""
        self.remaining = 0
        self.running = 0

    def add(self, items: Iterable[Item], now: float) -> None:
        """Queue items behind those of their batch and user, in the order given."""
        for item in items:
            key = (item.batch_id, item.user_id)
            queue = self._queues.setdefault(key, _Queue())
            if not queue.items and key not in self._active:
                queue.since = now
                self._waiting[key] = None
            queue.items.append(item)
            self.remaining += 1

    def drop(self, batch_id: str) -> None:
        """Forget a batch, its running items included."""
        self.take_out(batch_id)
        for key in [key for key in self._queues if key[0] == batch_id]:
            self.running -= self._queues[key].running
            del self._queues[key]

    def take_out(self, batch_id: str) -> list[Item]:
        """Forget the items of a batch that were not started, and return them."""
        items: list[Item] = []
        for key in [key for key in self._queues if key[0] == batch_id]:
            items += self._queues[key].items
            self._queues[key].items.clear()
            self._remove_if_empty(key)
        self.remaining -= len(items)
        return items

    def remove(self, item: Item) -> None:
        """Forget an item that was not started; one that was started does not change."""
        key = (item.batch_id, item.user_id)
        if (queue := self._queues.get(key)) is not None and item in queue.items:
            queue.items.remove(item)
            self.remaining -= 1
            self._remove_if_empty(key)

    def finish(self, item: Item) -> None:
        """Record that a started item is done."""
        key = (item.batch_id, item.user_id)
        if (queue := self._queues.get(key)) is not None:
            queue.running -= 1
            self.running -= 1
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
            self.running += 1
            self.remaining -= 1
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
        while self._active and self._waiting and self._is_starved(next(iter(self._waiting)), now):
            oldest = min(self._active, key=lambda key: self._queues[key].since)
            if not self._is_starved(oldest, now):
                return  # all active queues became active only now
            self._active.remove(oldest)
            self._queues[oldest].since = now
            self._waiting[oldest] = None
            self._activate(now)
            self._active.insert(0, self._active.pop())  # it waited too long, so its items start first

    def _is_starved(self, key: _Key, now: float) -> bool:
        """Whether a queue has waited, or was active, for longer than the bound."""
        return now - self._queues[key].since > self._max_starvation_s

    def _activate(self, now: float) -> None:
        key, _ = self._waiting.popitem(last=False)
        self._queues[key].since = self._queues[key].last_started = now
        self._active.append(key)

    def _remove_if_empty(self, key: _Key) -> None:
        queue = self._queues[key]
        if not queue.items:
            if key in self._active:
                self._active.remove(key)
            self._waiting.pop(key, None)
            if not queue.running:
                del self._queues[key]
