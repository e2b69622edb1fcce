"""Recalls a user's memory for a query: past engagements and the profile, never later than the query."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mindprint.types import Engagement, Profile
from mindprint_server.context import ServerContext
from mindprint_server.memory import episodic
from mindprint_server.memory.history import UserHistory
from mindprint_server.memory.history_cache import HistoryCache
from mindprint_server.memory.word_index import bm25
from mindprint_server.prompts.types import RecalledMemory
from mindprint_server.store import RecordNotFound, Store


@dataclass(frozen=True)
class StoredHistory:
    """The engagements of a user strictly before a time, read from the store; a `HistoryView`."""

    store: Store
    user_id: str
    before: datetime | None
    """Time of the query; None is now."""
    exclude_id: str | None
    """An engagement that is left out."""

    async def length(self) -> int:
        """Return how many engagements there are."""
        return await self.store.engagements.count_history(self.user_id, before=self.before, exclude_id=self.exclude_id)

    async def newest(self, limit: int) -> Sequence[Engagement]:
        """Return the newest engagements, at most `limit`, oldest first."""
        return await self.store.engagements.list_history(
            self.user_id, before=self.before, exclude_id=self.exclude_id, limit=limit
        )

    async def word_scores(self, query: str, newest: Sequence[Engagement]) -> Sequence[float]:
        """Return the BM25 score of each engagement that `newest` returned."""
        return await asyncio.to_thread(bm25, query, [engagement.prompt for engagement in newest])


class MemoryService:
    """Recalls memories with the retriever that the settings name."""

    def __init__(self, ctx: ServerContext) -> None:
        self._store = ctx.store
        self._retriever = episodic.create_retriever(ctx.settings)
        self._reminders = episodic.create_reminder_retriever(ctx.settings)
        self._histories = HistoryCache(ctx.settings, ctx.store)

    def forget(self) -> None:
        """Drop the tenant's histories, and all embeddings: an embedding does not know its tenant."""
        self._histories.forget()
        for retriever in (self._retriever, self._reminders):
            if isinstance(retriever, episodic.Embeddings):
                retriever.forget()

    async def recall(
        self, user_id: str, *, before: datetime | None, not_id: str | None = None, query: str | None = None
    ) -> tuple[RecalledMemory, int | None]:
        """Recall a user's memory for a query.

        Args:
            user_id: Whose memory it is.
            before: Time of the query; None is now. Profile and episodes end strictly before it.
            not_id: An engagement that is never among the episodes.
            query: What the episodes should be similar to; None recalls the newest.

        Returns:
            The memory, and the version of the profile in it; None where there is no profile.
        """
        # Without a query a few engagements are enough.
        if before is None and not_id is None and query is not None:
            history = await self._histories.get_newest(user_id) or UserHistory([], [])
            return await self._recall(history.profile(None), history.all(), query)
        profile = await self._store.profiles.get_newest(user_id, before=before)
        return await self._recall(profile, StoredHistory(self._store, user_id, before, not_id), query)

    async def recall_existing(self, user_id: str, *, query: str) -> RecalledMemory:
        """Recall a user's memory for a query of now.

        Raises:
            RecordNotFound: The user does not exist.
        """
        if (history := await self._histories.get_newest(user_id)) is None:
            raise RecordNotFound("user", user_id)
        memory, _ = await self._recall(history.profile(None), history.all(), query)
        return memory

    async def recall_shared(self, user_id: str) -> RecalledMemory:
        """Recall the part of a user's memory that all queries of now share, whatever they ask.

        Returns:
            The profile, and the episodes if the retriever is independent of the query.
        """
        profile = await self._store.profiles.get_newest(user_id, before=None)
        episodes: Sequence[Engagement] = ()
        if self._retriever.is_query_independent:
            episodes = await self._retriever.recall(StoredHistory(self._store, user_id, None, None), None)
        return RecalledMemory(profile.text if profile else None, tuple(episodes))

    async def read_history(self, user_id: str) -> UserHistory:
        """Read a user's whole history, to recall from it many times without the store."""
        engagements = await self._store.engagements.list_history(user_id, before=None, limit=None)
        return UserHistory(engagements, await self._store.profiles.list_versions(user_id))

    async def get_history(self, user_id: str) -> UserHistory:
        """Return a user's whole history as `read_history` does, from the cache if it is there and did not change."""
        return await self._histories.get_all(user_id) or UserHistory([], [])

    async def recall_from(
        self, history: UserHistory, *, before: datetime, not_id: str | None, query: str | None
    ) -> tuple[RecalledMemory, int | None]:
        """Recall as `recall` does, from a history that was read already.

        Args:
            history: From `read_history`.
            before: Time of the query.
            not_id: An engagement that is never among the episodes.
            query: What the episodes should be similar to; None recalls the newest.
        """
        return await self._recall(history.profile(before), history.before(before, not_id), query)

    async def _recall(
        self, profile: Profile | None, past: episodic.HistoryView, query: str | None
    ) -> tuple[RecalledMemory, int | None]:
        episodes = await self._retriever.recall(past, query)
        reminders = await self._reminders.recall(past, query)
        memory = RecalledMemory(profile.text if profile else None, tuple(episodes), tuple(reminders))
        return memory, profile.version if profile else None
