"""Writes users' profiles with the base model: notes on pieces of the history, merged into one text."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeVar
from weakref import WeakValueDictionary

from cachetools import LRUCache

from mindprint.types import Engagement, Profile
from mindprint_server.context import ServerContext
from mindprint_server.engine import Message, Priority, Sampling
from mindprint_server.exceptions import Invalid
from mindprint_server.prompts.templates import PROMPT_VERSION, merge, summarize
from mindprint_server.settings import MemorySettings
from mindprint_server.tenancy import current_tenant, erasure_epoch, of_tenant

Item = TypeVar("Item")
MERGE_FAN_IN = 6
"""Number of notes that one prompt merges. More notes are merged in several levels."""
CACHED_NOTES = 4096
"""Maximum number of cached notes. Pieces of a history stay the same as the history grows, so they hit the cache."""


class ProfileWriter:
    """Writes profiles. Calls for the same user run one after the other."""

    def __init__(self, ctx: ServerContext) -> None:
        self._ctx = ctx
        self._settings: MemorySettings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        # Weak, so that no name of a user stays when nobody writes the user's profile.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._notes: LRUCache[bytes, str] = LRUCache(CACHED_NOTES)
        self._generating = asyncio.Semaphore(ctx.settings.profile_notes_at_once)

    async def ensure(self, user_id: str) -> int:
        """Write the profiles that are due for a user; return how many.

        Raises:
            NotFound: The user does not exist.
            UserBeingErased: Data of the user is being erased.
        """
        async with self._locks.setdefault(of_tenant(user_id), asyncio.Lock()):
            epoch = erasure_epoch()
            newest = await self._store.profiles.get_newest(user_id)
            total = await self._store.engagements.count(user_id)
            lengths = due_lengths(newest.covers if newest else 0, total, self._settings.profile_every)
            if not lengths:
                return 0
            history = await self._store.engagements.list_history(user_id, before=None, limit=total)
            written = 0
            for length in lengths:
                if length > len(history):
                    break  # engagements were erased after they were counted
                # Another server that works on the same user may have written it in the meantime.
                newest = await self._store.profiles.get_newest(user_id)
                if newest is None or newest.covers < length:
                    await self._write(user_id, history[:length], epoch, only_if_new=True)
                    written += 1
            return written

    def forget(self) -> None:
        """Drop all notes that are remembered: a note does not know its tenant."""
        self._notes.clear()

    async def renew(self, user_id: str) -> Profile:
        """Write a profile of the whole history now and return it.

        Raises:
            NotFound: The user does not exist.
            Invalid: The user has no engagements.
        """
        async with self._locks.setdefault(of_tenant(user_id), asyncio.Lock()):
            epoch = erasure_epoch()
            user = await self._store.users.get(user_id)
            history = await self._store.engagements.list_history(user_id, before=None, limit=user.engagements)
            if not history:
                raise Invalid("no_history", f"user {user_id} has no engagements: post some first")
            return await self._write(user_id, history, epoch)

    async def _write(
        self, user_id: str, history: Sequence[Engagement], read_epoch: int, *, only_if_new: bool = False
    ) -> Profile:
        special = self._engine.tokenizer.special
        pieces = split_into_pieces(history, self._settings.profile_piece)
        notes = list(await asyncio.gather(*(self._note(summarize(piece, special)) for piece in pieces)))
        while len(notes) > 1:
            groups = split_into_pieces(notes, MERGE_FAN_IN)
            notes = list(await asyncio.gather(*(self._merge(group) for group in groups)))
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
            ),
            only_if_new=only_if_new,
            read_epoch=read_epoch,
        )

    async def _merge(self, notes: Sequence[str]) -> str:
        return notes[0] if len(notes) == 1 else await self._note(merge(notes, self._engine.tokenizer.special))

    async def _note(self, messages: list[Message]) -> str:
        """Return the base model's greedy reply, which is cached because equal prompts have equal replies."""
        tokenizer = self._engine.tokenizer
        limit = self._engine.info().max_model_len - self._settings.profile_tokens
        # A prompt that is too long for the model loses its beginning, which is its oldest part.
        prompt = tokenizer.encode(tokenizer.render(messages))[-limit:]
        key = hashlib.sha256(repr((current_tenant(), prompt)).encode()).digest()
        if (note := self._notes.get(key)) is None:
            sampling = Sampling(max_tokens=self._settings.profile_tokens, detect_loops=True)
            async with self._generating:
                output = await self._engine.generate(prompt, sampling, adapter=None, priority=Priority.BATCH)
            self._ctx.count_generated(len(output.token_ids))
            note = self._notes[key] = clean_sentences(output.text) or "This user has no clear preference."
        return note


# --- pure functions ---


def due_lengths(covered: int, total: int, every: int) -> list[int]:
    """Return the history lengths at which a profile is due: the multiples of `every` in (covered, total].

    Each length has a profile, not only the newest: a query from the middle of a history may only read a profile that
    ends before it.

    Args:
        covered: Engagements that the newest profile covers.
        total: Engagements of the user.
        every: Engagements between two profiles.
    """
    return list(range((covered // every + 1) * every, total + 1, every))


def split_into_pieces(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Return consecutive pieces of `size`; the last may be shorter. Earlier pieces stay the same as items are added."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def clean_sentences(text: str) -> str:
    """Return a model's notes without repeated sentences, and without a last sentence that was cut off."""
    kept: list[str] = []
    for sentence in text.replace("\n", " ").split(". "):
        sentence = sentence.strip()
        if sentence and sentence.rstrip(".") not in (k.rstrip(".") for k in kept):
            kept.append(sentence)
    if len(kept) > 1 and not kept[-1].endswith((".", "!", "?")):
        kept.pop()
    joined = ". ".join(sentence.rstrip(".") for sentence in kept)
    return f"{joined}." if joined and joined[-1] not in "!?" else joined
