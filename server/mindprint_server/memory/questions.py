"""Builds questions: a stored engagement, or a caller's query, together with the memory that belongs to its time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cachetools import TTLCache

from mindprint.types import TraceRequest
from mindprint.types.keys import AdapterKey
from mindprint_server.context import ServerContext
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.prompts.types import Question, RecalledMemory
from mindprint_server.store import RecordNotFound
from mindprint_server.tenancy import drop_tenant, remembered_key

CACHED_USERS = 1024
"""Other users whose recalled memory is cached."""


class QuestionBuilder:
    """Combines an engagement or a query with the memory from before its time."""

    def __init__(self, ctx: ServerContext, *, memory: MemoryService) -> None:
        self._store = ctx.store
        self._memory = memory
        self._memories: TTLCache[tuple[str, str, int], tuple[RecalledMemory, int | None]] = TTLCache(
            CACHED_USERS, ctx.settings.anchor_memory_s
        )
        self._recalling = asyncio.Lock()

    def forget(self) -> None:
        """Drop what is remembered of the tenant's users."""
        drop_tenant(self._memories)

    async def for_engagement(self, user_id: str, engagement_id: str, history: UserHistory | None = None) -> Question:
        """Build the question of a stored engagement, with the user's own memory from before its time.

        Args:
            user_id: Whose engagement it is.
            engagement_id: The engagement; it is never part of its own memory.
            history: The user's history, if the caller has read it already; None reads from the store. Pass it when
                you build many questions of one user.

        Raises:
            RecordNotFound: The engagement does not exist.
        """
        if history is None:
            engagement = await self._store.engagements.get(user_id, engagement_id)
            memory, version = await self._memory.recall(
                user_id, before=engagement.occurred_at, not_id=engagement_id, query=engagement.prompt
            )
        else:
            if (known := history.by_id.get(engagement_id)) is None:
                raise RecordNotFound("engagement", engagement_id)
            engagement = known
            memory, version = await self._memory.recall_from(
                history, before=engagement.occurred_at, not_id=engagement_id, query=engagement.prompt
            )
        return Question(
            user_id=user_id,
            query=engagement.prompt,
            choices=tuple(engagement.choices) if engagement.choices else None,
            target=engagement.response,
            memory=memory,
            profile_version=version,
            engagement_id=engagement_id,
        )

    async def for_request(self, request: TraceRequest) -> Question:
        """Build the question of a request: a stored engagement, or a query with the memory that the request names.

        Raises:
            RecordNotFound: The user, the engagement, or the user whose memory is wanted does not exist.
        """
        if request.engagement_id is not None:
            return await self.for_engagement(request.user_id, request.engagement_id)
        await self._store.users.get(request.user_id)
        memory, version = await self._requested_memory(request)
        return Question(
            user_id=request.user_id,
            query=request.query or "",
            choices=tuple(request.choices) if request.choices else None,
            target=request.target,
            memory=memory,
            profile_version=version,
            memory_of=request.memory,
            show_choices=request.show_choices,
        )

    async def _requested_memory(self, request: TraceRequest) -> tuple[RecalledMemory, int | None]:
        if request.memory == "none":
            return RecalledMemory(), None
        owner = request.user_id
        if request.memory != "own":
            owner = AdapterKey(request.memory).name
            try:
                await self._store.users.get(owner)
            except RecordNotFound as error:
                raise RecordNotFound(error.kind, error.id, param="memory") from error
        return await self._memory.recall(owner, before=request.asked_at, query=request.query)

    async def with_memory_of(self, question: Question, other_id: str) -> Question:
        """Return the question with another user's memory in place of its own.

        The other user's memory is recalled as of now and without a query, so it is the same for every question of a
        batch. It is cached for `anchor_memory_s` seconds.
        """
        async with self._recalling:
            key = remembered_key(other_id)
            if (known := self._memories.get(key)) is None:
                known = self._memories[key] = await self._memory.recall(other_id, before=None)
        memory, version = known
        return replace(question, memory=memory, profile_version=version, memory_of=AdapterKey.user(other_id))
