"""Looks up a user's neighbours in the store, and remembers them for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from mindprint_server.neighbours import features, pick
from mindprint_server.settings import Settings
from mindprint_server.store import Store

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

    async def of(self, user_id: str) -> Neighbours:
        """The nearest of a bounded number of other users, and a random one of them; None where there is none."""
        now = time.monotonic()
        if (known := self._known.get(user_id)) is not None and now - known[0] < self._settings.anchor_refresh_s:
            return known[1]
        pool = await self._store.neighbour_pool(user_id, limit=self._settings.anchor_pool)
        vectors = {}
        for id in (user_id, *pool):
            history = await self._store.history(id, before=None, limit=self._settings.anchor_history)
            vectors[id] = features(history)
        mine = vectors.pop(user_id)
        found = Neighbours(*pick(user_id, mine, vectors))
        self._known[user_id] = (now, found)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found
