"""Looks up a user's neighbours in the store, and remembers them for a while."""

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

KEPT = 4096
"""Users whose neighbours are remembered at once."""


@dataclass(frozen=True)
class Neighbors:
    nearest: str | None
    random: str | None


class NeighborIndex:
    def __init__(self, ctx: ServerContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._known: TTLCache[str, Neighbors] = TTLCache(KEPT, ctx.settings.anchor_refresh_s, clock)
        self._vectors: TTLCache[str, Features] = TTLCache(KEPT, ctx.settings.anchor_refresh_s, clock)
        self._looking = asyncio.Lock()

    async def get(self, user_id: str) -> Neighbors:
        """The nearest of a bounded number of other users, and a random one of them; None where there is none."""
        async with self._looking:  # a batch asks for many engagements of one user at once: one of them looks
            if (known := self._known.get(user_id)) is not None:
                return known
            pool = await self._store.users.list_others(user_id, limit=self._settings.anchor_pool)
            others = {id: await self._features(id) for id in pool}
            found = self._known[user_id] = Neighbors(*pick(user_id, await self._features(user_id), others))
            return found

    async def _features(self, user_id: str) -> Features:
        if (known := self._vectors.get(user_id)) is not None:
            return known
        history = await self._store.engagements.list_history(user_id, before=None, limit=self._settings.anchor_history)
        made = self._vectors[user_id] = features(history)
        return made


Features = Mapping[str, float]
_WORD = re.compile(r"\w+")


def features(history: Sequence[Engagement]) -> Features:
    """Unit vector of how a user answers to which words: with choices each word of a question next to the answer given,
    without them the words of the answer."""
    counts: Counter[str] = Counter()
    for engagement in history:
        if engagement.choices:
            words = set(_WORD.findall(engagement.prompt.lower()))
            counts.update(f"{word}={engagement.response}" for word in words)
        else:
            counts.update(set(_WORD.findall(engagement.response.lower())))
    # A word that is everywhere says little: its count enters by its root.
    damped = {word: math.sqrt(count) for word, count in counts.items()}
    length = math.sqrt(sum(value * value for value in damped.values()))
    return {word: value / length for word, value in damped.items()} if length else {}


def similarity(one: Features, other: Features) -> float:
    """Cosine, 0 to 1."""
    if len(other) < len(one):
        one, other = other, one
    return sum(value * other.get(word, 0.0) for word, value in one.items())


def pick(user_id: str, mine: Features, others: Mapping[str, Features]) -> tuple[str | None, str | None]:
    """The nearest other user and a random one (the same at every call), who differ where there are two."""
    ids = sorted(id for id, theirs in others.items() if theirs and id != user_id)
    if not ids:
        return None, None
    nearest = max(ids, key=lambda id: similarity(mine, others[id]))
    rest = [id for id in ids if id != nearest]
    return nearest, random.Random(user_id).choice(rest) if rest else None
