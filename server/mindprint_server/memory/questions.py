"""Turns an engagement, or anything a caller asks, into the prompts that put it to a user's own past."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cachetools import TTLCache

from mindprint.types import Mode, TraceRequest
from mindprint_server.engine import Engine, PromptTooLong
from mindprint_server.exceptions import not_found
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.prompts.templates import build, opening_text
from mindprint_server.prompts.types import Prompt, Question, RecalledMemory
from mindprint_server.settings import Settings
from mindprint_server.store import NotFound, Store

OTHERS_KEPT = 1024
"""Other users whose memory is at hand."""


class Asker:
    def __init__(self, settings: Settings, store: Store, engine: Engine, memory: MemoryService) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._memory = memory
        self._others: TTLCache[str, tuple[RecalledMemory, int | None]] = TTLCache(OTHERS_KEPT, settings.anchor_memory_s)
        self._reading_others = asyncio.Lock()

    @property
    def special(self) -> tuple[str, ...]:
        """Texts that nothing a user wrote may hold."""
        return self._engine.tokenizer.special

    async def about(self, user_id: str, engagement_id: str, timeline: UserHistory | None = None) -> Question:
        """The question that a stored engagement poses to its own past. Raises NotFound.

        Whoever asks about many engagements of one user reads the user's `timeline` once.
        """
        if timeline is None:
            engagement = await self._store.engagement(user_id, engagement_id)
            memory, version = await self._memory.recall(
                user_id, before=engagement.occurred_at, not_id=engagement_id, query=engagement.prompt
            )
        else:
            if (known := timeline.by_id.get(engagement_id)) is None:
                raise NotFound("engagement", engagement_id)
            engagement = known
            memory, version = await self._memory.recall_from(
                timeline, before=engagement.occurred_at, not_id=engagement_id, query=engagement.prompt
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

    async def posed(self, request: TraceRequest) -> Question:
        """What a caller asks: about a stored engagement, or a query put to the memory that the caller names.

        Raises NotFound, and ApiError where the other user whose memory is wanted is not there.
        """
        if request.engagement_id is not None:
            return await self.about(request.user_id, request.engagement_id)
        await self._store.user(request.user_id)
        memory, version = await self._named(request)
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

    async def _named(self, request: TraceRequest) -> tuple[RecalledMemory, int | None]:
        """The memory that a request names, whoever's it is: of what happened before the query."""
        if request.memory == "none":
            return RecalledMemory(), None
        owner = request.user_id
        if request.memory != "own":
            owner = request.memory.removeprefix("user/")
            try:
                await self._store.user(owner)
            except NotFound as error:
                raise not_found(error, "memory") from error
        return await self._memory.recall(owner, before=request.asked_at, query=request.query)

    async def instead_of(self, question: Question, other_id: str) -> Question:
        """The same question put to another user's memory, as that stands now: then it is the same one for every
        question of a batch, and is computed once. For `anchor_memory_s` the store is not asked for it again."""
        async with self._reading_others:
            if (known := self._others.get(other_id)) is None:
                known = self._others[other_id] = await self._memory.recall(other_id, before=None)
        memory, version = known
        return replace(question, memory=memory, profile_version=version, memory_of=f"user/{other_id}")

    def prompt(self, question: Question, mode: Mode, *, thinking_tokens: int, hint: str | None = None) -> Prompt:
        """With as much memory as fits the model together with the turn that follows: the oldest episodes go first, then
        the profile. Raises PromptTooLong when the query alone does not fit."""
        tokenizer = self._engine.tokenizer
        # Whatever the mode, the same room is left: all modes of a question see the same memory.
        reminded = len(tokenizer.encode(opening_text("", question.memory, tokenizer.special)))
        room = thinking_tokens + reminded + self._settings.max_answer_tokens + 64
        limit = self._engine.info().max_model_len - room
        choices = question.choices if question.show_choices else None
        memory: RecalledMemory | None = question.memory
        dropped = 0
        while memory is not None:
            text = tokenizer.render(build(memory, question.query, choices, mode, tokenizer.special, hint))
            if len(ids := tokenizer.encode(text)) <= limit:
                return Prompt(text, ids, dropped)
            memory, dropped = memory.without_oldest(), dropped + 1
        raise PromptTooLong(f"the query alone leaves less than {room} of the model's tokens: shorten it")
