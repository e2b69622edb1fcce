"""Recalls episodes and writes profiles with the base model."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cachetools import LRUCache

from mindprint.types import Engagement, Profile
from mindprint_server.context import ServerContext
from mindprint_server.engine import Message, Priority, Sampling
from mindprint_server.exceptions import Invalid
from mindprint_server.memory import episodic
from mindprint_server.memory.history import UserHistory
from mindprint_server.memory.profiles import due, pieces, sentences
from mindprint_server.prompts.templates import PROMPT_VERSION, merge, summarize
from mindprint_server.prompts.types import RecalledMemory
from mindprint_server.store import Store

MERGE_FAN_IN = 6
"""Notes that are merged at once; more are merged in levels."""
NOTES_KEPT = 4096


@dataclass(frozen=True)
class Before:
    """The engagements of a user strictly before a time (None: all), but for `not_id`."""

    store: Store
    user_id: str
    time: datetime | None
    not_id: str | None

    async def length(self) -> int:
        return await self.store.engagements.count_history(self.user_id, before=self.time, exclude_id=self.not_id)

    async def newest(self, limit: int) -> Sequence[Engagement]:
        return await self.store.engagements.list_history(
            self.user_id, before=self.time, exclude_id=self.not_id, limit=limit
        )


class MemoryService:
    def __init__(self, ctx: ServerContext) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._recall = episodic.create_retriever(ctx.settings)
        self._reminders = episodic.create_reminder_retriever(ctx.settings)
        self._writing: dict[str, asyncio.Lock] = {}
        self._notes: LRUCache[bytes, str] = LRUCache(NOTES_KEPT)

    async def recall(
        self, user_id: str, *, before: datetime | None, not_id: str | None = None, query: str | None = None
    ) -> tuple[RecalledMemory, int | None]:
        """What is remembered of a user for a query at `before` (now if None), and the version of the profile in it.

        Where similarity chooses the episodes, they are similar to `query`; without it they are the newest.
        Causal: profile and episodes end strictly before `before`, and the engagement `not_id` is never among them.
        """
        profile = await self._store.profiles.get_newest(user_id, before=before)
        past = Before(self._store, user_id, before, not_id)
        recalled = await self._recall.recall(past, query)
        return await self._recollection(profile, recalled, past, query), profile.version if profile else None

    async def timeline(self, user_id: str) -> UserHistory:
        """All of a user's history as it stands now."""
        engagements = await self._store.engagements.list_history(user_id, before=None, limit=None)
        return UserHistory(engagements, await self._store.profiles.list_versions(user_id))

    async def recall_from(
        self, timeline: UserHistory, *, before: datetime, not_id: str | None, query: str | None
    ) -> tuple[RecalledMemory, int | None]:
        """As `recall`, from a history that was read already."""
        profile = timeline.profile(before)
        past = timeline.before(before, not_id)
        recalled = await self._recall.recall(past, query)
        return await self._recollection(profile, recalled, past, query), profile.version if profile else None

    async def _recollection(
        self, profile: Profile | None, recalled: Sequence[Engagement], past: episodic.HistoryView, query: str | None
    ) -> RecalledMemory:
        reminders = await self._reminders.recall(past, query)
        return RecalledMemory(profile.text if profile else None, tuple(recalled), tuple(reminders))

    async def ensure_profiles(self, user_id: str) -> int:
        """Writes the profiles that are due for a user; returns how many. No profile is written twice."""
        async with self._writing.setdefault(user_id, asyncio.Lock()):
            newest = await self._store.profiles.get_newest(user_id)
            total = await self._store.engagements.count(user_id)
            lengths = due(newest.covers if newest else 0, total, self._settings.profile_every)
            if not lengths:
                return 0
            history = await self._store.engagements.list_history(user_id, before=None, limit=total)
            for length in lengths:
                await self._write(user_id, history[:length])
            return len(lengths)

    async def renew(self, user_id: str) -> Profile:
        """Writes a profile of the whole history now. Raises Invalid for a user without engagements."""
        async with self._writing.setdefault(user_id, asyncio.Lock()):
            user = await self._store.users.get(user_id)
            if user.engagements == 0:
                raise Invalid("no_history", f"user {user_id} has no engagements: post some first")
            history = await self._store.engagements.list_history(user_id, before=None, limit=user.engagements)
            return await self._write(user_id, history)

    async def _write(self, user_id: str, history: Sequence[Engagement]) -> Profile:
        notes: list[str] = list(
            await asyncio.gather(
                *(self._note(summarize(p, self._special)) for p in pieces(history, self._settings.profile_piece))
            )
        )
        while len(notes) > 1:
            groups = pieces(notes, MERGE_FAN_IN)
            notes = list(await asyncio.gather(*(self._merged(group) for group in groups)))
        text = notes[0]
        return await self._store.profiles.add(
            Profile(
                user_id=user_id,
                version=0,
                text=text,
                tokens=len(self._engine.tokenizer.encode(text)),
                covers=len(history),
                covers_until=history[-1].occurred_at,
                prompt_version=PROMPT_VERSION,
                base_digest=self._engine.info().base_digest,
                created_at=datetime.now(UTC),
            )
        )

    @property
    def _special(self) -> tuple[str, ...]:
        return self._engine.tokenizer.special

    async def _merged(self, notes: Sequence[str]) -> str:
        return notes[0] if len(notes) == 1 else await self._note(merge(notes, self._special))

    async def _note(self, messages: list[Message]) -> str:
        """The base model's greedy reply. The same question gets the same reply, so it is asked once."""
        tokenizer = self._engine.tokenizer
        limit = self._engine.info().max_model_len - self._settings.profile_tokens
        # A piece too long for the model loses its oldest part.
        prompt = tokenizer.encode(tokenizer.render(messages))[-limit:]
        key = hashlib.sha256(repr(prompt).encode()).digest()
        if (note := self._notes.get(key)) is None:
            written = await self._engine.generate(
                prompt,
                Sampling(max_tokens=self._settings.profile_tokens, detect_loops=True),
                adapter=None,
                priority=Priority.BATCH,
            )
            note = self._notes[key] = sentences(written.text) or "This user has no clear preference."
        return note
