"""Looks up a user's neighbours in the store, and remembers them for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from mindprint_server.neighbours import Features, features, pick
from mindprint_server.settings import Settings
from mindprint_server.store import Store

T = TypeVar("T")
KEPT = 4096
"""Users whose neighbours are remembered at once."""


@dataclass(frozen=True)
class Neighbours:
    nearest: str | None
    random: str | None


class Near:
    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._known: OrderedDict[str, tuple[float, Neighbours]] = OrderedDict()
        self._vectors: OrderedDict[str, tuple[float, Features]] = OrderedDict()

    async def of(self, user_id: str) -> Neighbours:
        """The nearest of a bounded number of other users, and a random one of them; None where there is none."""
        now = time.monotonic()
        if (known := self._known.get(user_id)) is not None and now - known[0] < self._settings.anchor_refresh_s:
            return known[1]
        pool = await self._store.neighbour_pool(user_id, limit=self._settings.anchor_pool)
        others = {id: await self._features(id, now) for id in pool}
        found = Neighbours(*pick(user_id, await self._features(user_id, now), others))
        _keep(self._known, user_id, (now, found))
        return found

    async def _features(self, user_id: str, now: float) -> Features:
        if (known := self._vectors.get(user_id)) is not None and now - known[0] < self._settings.anchor_refresh_s:
            return known[1]
        made = features(await self._store.history(user_id, before=None, limit=self._settings.anchor_history))
        _keep(self._vectors, user_id, (now, made))
        return made


def _keep(cache: OrderedDict[str, T], key: str, value: T) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > KEPT:
        cache.popitem(last=False)
