"""Looks up a user's neighbours in the store, and remembers them for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache

from mindprint_server.neighbours import Features, features, pick
from mindprint_server.settings import Settings
from mindprint_server.store import Store

KEPT = 4096
"""Users whose neighbours are remembered at once."""


@dataclass(frozen=True)
class Neighbours:
    nearest: str | None
    random: str | None


class Near:
    def __init__(self, settings: Settings, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._store = store
        self._known: TTLCache[str, Neighbours] = TTLCache(KEPT, settings.anchor_refresh_s, clock)
        self._vectors: TTLCache[str, Features] = TTLCache(KEPT, settings.anchor_refresh_s, clock)
        self._looking = asyncio.Lock()

    async def of(self, user_id: str) -> Neighbours:
        """The nearest of a bounded number of other users, and a random one of them; None where there is none."""
        async with self._looking:  # a batch asks for many engagements of one user at once: one of them looks
            if (known := self._known.get(user_id)) is not None:
                return known
            pool = await self._store.neighbour_pool(user_id, limit=self._settings.anchor_pool)
            others = {id: await self._features(id) for id in pool}
            found = self._known[user_id] = Neighbours(*pick(user_id, await self._features(user_id), others))
            return found

    async def _features(self, user_id: str) -> Features:
        if (known := self._vectors.get(user_id)) is not None:
            return known
        history = await self._store.history(user_id, before=None, limit=self._settings.anchor_history)
        made = self._vectors[user_id] = features(history)
        return made
