"""A batch of which this server has claimed items."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from mindprint.types import BatchRequest
from mindprint_server.generation.engagement import UserSnapshot
from mindprint_server.generation.scheduler import Item


@dataclass
class ActiveBatch:
    """A batch of which this server has claimed items."""

    id: str
    tenant: str
    request: BatchRequest
    preparing: asyncio.Semaphore
    """Bounds the users whose profiles are written at once."""
    api_key: str | None = None
    """Id of the key that started it."""
    items: dict[str, set[Item]] = field(default_factory=dict)
    """Claimed items that are not done, by user."""
    backlog: Counter[str] | None = None
    """Accepted traces that wait for a trainer, by user. It is an estimate: traces that trainers take meanwhile are not
    subtracted, those of other servers are not added, and items that run already are not stopped."""
    snapshots: dict[str, UserSnapshot] = field(default_factory=dict)
    """Snapshots of the users that still have items. The others are removed, because a snapshot holds a history."""
    snapshot_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    running: dict[Item, asyncio.Task[None]] = field(default_factory=dict)
    """The tasks of items that were started."""

    def forget(self, item: Item) -> None:
        """Forget an item that is done or lost."""
        items = self.items.get(item.user_id, set())
        items.discard(item)
        self.running.pop(item, None)
        if not items:
            self.items.pop(item.user_id, None)
            self.snapshots.pop(item.user_id, None)
