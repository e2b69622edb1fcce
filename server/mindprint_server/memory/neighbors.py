"""Finds a user's neighbors: the other user who answers most like them, and a random other one.

Similarity counts words together with the answers given. It needs no model, because a batch compares many users. The
evaluation uses another formula (TF-IDF of the same words), so that it does not judge Anchor by Anchor's own formula.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cachetools import TTLCache

from mindprint.types import Engagement
from mindprint_server.context import ServerContext
from mindprint_server.settings import VerdictSettings
from mindprint_server.tenancy import drop_tenant, remembered_key

CACHED_USERS = 4096
"""Users whose neighbors are cached."""


@dataclass(frozen=True)
class Neighbors:
    """The ids of a user's neighbors; None if there is no such user."""

    nearest: str | None
    random: str | None
    """A random other user, not the nearest one; the same at every call."""


class NeighborIndex:
    """Looks up neighbors in the store and caches them for `anchor_refresh_s` seconds."""

    def __init__(self, ctx: ServerContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings: VerdictSettings = ctx.settings
        self._store = ctx.store
        kept_s = ctx.settings.anchor_refresh_s
        self._known: TTLCache[tuple[str, str, int], Neighbors] = TTLCache(CACHED_USERS, kept_s, clock)
        self._vectors: TTLCache[tuple[str, str, int], Features] = TTLCache(CACHED_USERS, kept_s, clock)
        self._lock = asyncio.Lock()

    async def get(self, user_id: str) -> Neighbors:
        """Return the neighbors of a user among at most `anchor_pool` other users."""
        async with self._lock:  # a batch asks for one user many times at once: only the first call looks up
            key = remembered_key(user_id)
            if (known := self._known.get(key)) is not None:
                return known
            pool = await self._store.users.list_others(user_id, limit=self._settings.anchor_pool)
            others = {id: await self._features(id) for id in pool}
            mine = await self._features(user_id)
            # Histories of the longest texts have 100,000s of words, so the event loop would stand still for seconds.
            neighbors = self._known[key] = Neighbors(*await asyncio.to_thread(pick, user_id, mine, others))
            return neighbors

    def forget(self) -> None:
        """Drop what is remembered of the tenant's users."""
        drop_tenant(self._known)
        drop_tenant(self._vectors)

    async def _features(self, user_id: str) -> Features:
        key = remembered_key(user_id)
        if (known := self._vectors.get(key)) is not None:
            return known
        history = await self._store.engagements.list_history(user_id, before=None, limit=self._settings.anchor_history)
        vector = self._vectors[key] = await asyncio.to_thread(features, history)
        return vector


Features = Mapping[str, float]
_WORD = re.compile(r"\w+")


def features(history: Sequence[Engagement]) -> Features:
    """Return a unit vector that describes how a user answers.

    For a closed question it counts pairs of a word in the question and the answer given. For an open one it counts the
    words of the answer.
    """
    counts: Counter[str] = Counter()
    for engagement in history:
        if engagement.choices:
            words = set(_WORD.findall(engagement.prompt.lower()))
            counts.update(f"{word}={engagement.response}" for word in words)
        else:
            counts.update(set(_WORD.findall(engagement.response.lower())))
    # The square root dampens words that occur everywhere.
    damped = {word: math.sqrt(count) for word, count in counts.items()}
    length = math.sqrt(sum(value * value for value in damped.values()))
    return {word: value / length for word, value in damped.items()} if length else {}


def similarity(one: Features, other: Features) -> float:
    """Return the cosine of two unit vectors, 0 to 1."""
    if len(other) < len(one):
        one, other = other, one
    return sum(value * other.get(word, 0.0) for word, value in one.items())


def pick(user_id: str, mine: Features, others: Mapping[str, Features]) -> tuple[str | None, str | None]:
    """Return the nearest other user and a random one. They differ if there are two other users.

    Args:
        user_id: Whose neighbors; it also seeds the random choice, which is the same at every call.
        mine: The user's features.
        others: Features by user id; users without features are left out.
    """
    ids = sorted(id for id, theirs in others.items() if theirs and id != user_id)
    if not ids:
        return None, None
    nearest = max(ids, key=lambda id: similarity(mine, others[id]))
    rest = [id for id in ids if id != nearest]
    return nearest, random.Random(user_id).choice(rest) if rest else None
