"""Histories of users that are kept in memory, for chats and batches. A stamp is read before each use.

What is kept belongs to a tenant and goes with each erasure, as all that a server remembers of users. A read that an
erasure overtakes is not kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from cachetools import TTLCache

from mindprint.types import Engagement
from mindprint_server.memory.history import UserHistory
from mindprint_server.settings import MemorySettings
from mindprint_server.store import Store
from mindprint_server.store.histories import HistoryRows, HistoryStamp
from mindprint_server.tenancy import drop_tenant, remembered_key

Key = tuple[str, str, int]

ENGAGEMENT_BYTES = 2048
"""Memory of a kept engagement without its texts: the objects, and its places in the index."""
CHARACTER_BYTES = 4
"""Memory of a character at most, with its part in the index."""


@dataclass(frozen=True)
class KeptHistory:
    """A history, and what it takes to know whether it is still the user's."""

    history: UserHistory
    stamp: HistoryStamp
    bytes: int


class HistoryCache:
    """Reads histories from the store, and keeps them up to `history_cache_mib`.

    Args:
        settings: How much is kept for how long, and how many engagements a query needs.
        store: Where histories are read.
        clock: Returns seconds; tests replace it.
    """

    def __init__(self, settings: MemorySettings, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        needed = settings.recency_k + settings.recency_step
        if settings.recall != "recency" or settings.reminder_engagements:
            needed = max(needed, settings.recall_from)
        self._needed = needed
        self._kept: TTLCache[Key, KeptHistory] = TTLCache(
            settings.history_cache_mib * 2**20, settings.history_cache_s, clock, getsizeof=lambda kept: kept.bytes
        )
        self._reading: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    def forget(self) -> None:
        """Drop the histories of the tenant's users."""
        drop_tenant(self._kept)

    async def get_all(self, user_id: str) -> UserHistory | None:
        """Return a user's whole history as it is now; None if there is no such user."""
        return await self._get(user_id, whole=True)

    async def get_newest(self, user_id: str) -> UserHistory | None:
        """Return the end of a user's history that a query of now needs; None if there is no such user."""
        return await self._get(user_id, whole=False)

    async def _get(self, user_id: str, *, whole: bool) -> UserHistory | None:
        key = remembered_key(user_id)
        kept = self._find(key, whole=whole)
        if kept and kept.stamp == await self._store.histories.get_stamp(user_id):
            return kept.history
        # Requests of one user that come at once read it once.
        async with self._reading.setdefault(key, asyncio.Lock()):
            kept = await self._read(user_id, self._find(key, whole=whole), whole=whole)
            self._keep(user_id, key, kept)
        return None if kept is None else kept.history

    def _find(self, key: Key, *, whole: bool) -> KeptHistory | None:
        kept = self._kept.get(key)
        return None if kept is None or (whole and kept.history.earlier) else kept

    async def _read(self, user_id: str, kept: KeptHistory | None, *, whole: bool) -> KeptHistory | None:
        histories = self._store.histories
        if kept is not None:
            last = kept.history.engagements[-1] if kept.history.engagements else None
            rows = await histories.read_after(user_id, last, kept.stamp.profile)
            if rows is None:
                return None
            if rows.stamp == kept.stamp:
                return kept
            if grown := self._grow(kept, rows):
                return grown
        rows = await (histories.read_all(user_id) if whole else histories.read_newest(user_id, self._needed))
        if rows is None:
            return None
        earlier = rows.stamp.engagements - len(rows.engagements)
        return KeptHistory(UserHistory(rows.engagements, rows.profiles, earlier), rows.stamp, size(rows.engagements))

    def _grow(self, kept: KeptHistory, rows: HistoryRows) -> KeptHistory | None:
        """Return a history with newer rows at its end; None if that is not all that has changed."""
        history = kept.history
        is_all = kept.stamp.engagements + len(rows.engagements) == rows.stamp.engagements
        if not is_all or not rows.stamp.has_only_grown(kept.stamp):
            return None
        engagements = [*history.engagements, *rows.engagements]
        profiles = [*history.profiles, *rows.profiles]
        if history.earlier:
            if len(engagements) > 2 * self._needed:
                return None
            profiles = profiles[-1:]
        grown = UserHistory(engagements, profiles, history.earlier, history.index)
        return KeptHistory(grown, rows.stamp, kept.bytes + size(rows.engagements))

    def _keep(self, user_id: str, key: Key, kept: KeptHistory | None) -> None:
        if kept is None:
            self._kept.pop(key, None)
        # An erasure that has ended since the key was made has emptied the cache: nothing read before may come back.
        elif key == remembered_key(user_id) and kept.bytes <= self._kept.maxsize:
            self._kept[key] = kept


def size(engagements: Iterable[Engagement]) -> int:
    """Return about how many bytes engagements take in memory."""
    return sum(
        ENGAGEMENT_BYTES
        + CHARACTER_BYTES * sum(map(len, (one.prompt, one.response, one.reason or "", *(one.choices or ()))))
        for one in engagements
    )
