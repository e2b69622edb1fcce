"""A user's history in memory. It is read once and recalled from for every question."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from mindprint.types import Engagement, Profile
from mindprint_server.memory.word_index import WordIndex, words

MAX_INLINE_CHARS = 16_384
"""Longest text that is split into words on the event loop, in about 2 ms. Longer ones are left to a thread."""
INDEXED_AT_ONCE = 500
"""Texts that are added to an index in one go, in about 2 ms."""


class HistoryIndex:
    """The words of a history's prompts. It is shared with the histories that this one grows into.

    Texts are added when a query first needs them.
    """

    def __init__(self) -> None:
        self._index = WordIndex()
        self._growing = asyncio.Lock()

    async def scores(
        self, engagements: Sequence[Engagement], query: str, start: int, end: int, skipped: int | None
    ) -> Sequence[float]:
        """Return the BM25 score of each engagement from `start` to `end`, without that at `skipped`.

        Args:
            engagements: The history; it begins with all that was ever indexed here.
            query: The query.
            start: Place of the first engagement.
            end: Place after the last one.
            skipped: Place of one that is left out; None leaves none out.
        """
        if len(self._index) < end:
            async with self._growing:
                await self._grow([engagement.prompt for engagement in engagements[len(self._index) : end]])
        if len(query) > MAX_INLINE_CHARS:
            scores = await asyncio.to_thread(self._index.scores, query, start, end, skipped)
        else:
            scores = self._index.scores(query, start, end, skipped)
        found: list[float] = scores.tolist()
        return found if skipped is None else [*found[: skipped - start], *found[skipped - start + 1 :]]

    async def _grow(self, texts: Sequence[str]) -> None:
        is_long = len(texts) > INDEXED_AT_ONCE or sum(map(len, texts)) > MAX_INLINE_CHARS
        for first in range(0, len(texts), INDEXED_AT_ONCE):
            some = texts[first : first + INDEXED_AT_ONCE]
            # Only splitting is left to the thread: it goes on if the caller is cancelled, and must change nothing then.
            split = await asyncio.to_thread(_split, some) if is_long else _split(some)
            self._index.extend(split)


def _split(texts: Sequence[str]) -> list[list[str]]:
    return [words(text) for text in texts]


@dataclass(frozen=True)
class HistoryPrefix:
    """The beginning of a history, as a `HistoryView`. It copies only what is asked for, as a history may be long."""

    history: UserHistory
    end: int
    """Engagements from this position on are not part of it."""
    excluded: int | None = None
    """Position of an engagement before `end` that is left out."""

    async def length(self) -> int:
        """Return how many engagements there are."""
        return self.history.earlier + self.end - (self.excluded is not None)

    async def newest(self, limit: int) -> Sequence[Engagement]:
        """Return the newest engagements, at most `limit`, oldest first."""
        start, skipped = self._window(limit)
        engagements = self.history.engagements
        if skipped is None:
            return engagements[start : self.end]
        return [*engagements[start:skipped], *engagements[skipped + 1 : self.end]]

    async def word_scores(self, query: str, newest: Sequence[Engagement]) -> Sequence[float]:
        """Return the BM25 score of each engagement that `newest` returned."""
        start, skipped = self._window(len(newest))
        return await self.history.index.scores(self.history.engagements, query, start, self.end, skipped)

    def _window(self, limit: int) -> tuple[int, int | None]:
        """Return where the newest `limit` begin, and the position among them that is left out."""
        start = self.end - limit
        if limit == 0 or self.excluded is None or self.excluded < start:
            return max(0, start), None
        return max(0, start - 1), self.excluded


@dataclass(frozen=True)
class UserHistory:
    """The engagements and profiles of a user at the moment of reading: all of them, or the newest."""

    engagements: Sequence[Engagement]
    """Ordered by time, then id."""
    profiles: Sequence[Profile]
    """Ordered by version."""
    earlier: int = 0
    """Number of older engagements that are not in `engagements`. Above 0, `profiles` has the newest one only."""
    index: HistoryIndex = field(default_factory=HistoryIndex, compare=False)

    @cached_property
    def by_id(self) -> dict[str, Engagement]:
        """The engagements by their id."""
        return {engagement.id: engagement for engagement in self.engagements}

    def all(self) -> HistoryPrefix:
        """Return the whole history as a view."""
        return HistoryPrefix(self, len(self.engagements))

    def before(self, time: datetime, not_id: str | None) -> HistoryPrefix:
        """Return the engagements strictly before `time`, without the engagement `not_id`."""
        end = bisect_left(self.engagements, time, key=lambda engagement: engagement.occurred_at)
        known = None if not_id is None else self.by_id.get(not_id)
        return HistoryPrefix(self, end, self._position(known) if known and known.occurred_at < time else None)

    def _position(self, engagement: Engagement) -> int:
        return bisect_left(
            self.engagements, (engagement.occurred_at, engagement.id), key=lambda other: (other.occurred_at, other.id)
        )

    def profile(self, before: datetime | None) -> Profile | None:
        """Return the newest profile that covers only times before `before`; None if there is none."""
        return next(
            (profile for profile in reversed(self.profiles) if before is None or profile.covers_until < before), None
        )
