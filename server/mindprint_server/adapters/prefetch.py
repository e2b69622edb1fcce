"""Computes what the first question to a new version will read: the engine keeps a prefix for each version apart.

Without it, whoever asks first after a version went live waits for the whole memory to be read again.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from mindprint_server.admission import Lull
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, EngineDied, Message, Priority, Sampling
from mindprint_server.memory import MemoryService
from mindprint_server.prompts.templates import memory_text
from mindprint_server.prompts.types import RecalledMemory

log = structlog.get_logger(__name__)


class PrefixPrefetcher:
    def __init__(self, ctx: ServerContext, *, memory: MemoryService, lull: Lull) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._memory = memory
        self._lull = lull

    async def warm(self, adapter: AdapterRef) -> None:
        """Reads the user's memory through the version once. Raises EngineDied; any other failure only costs the time
        that it would have saved.

        What is recalled by similarity depends on the question: then it is the profile alone, with which each of them
        begins. A cohort has no memory.
        """
        kind, _, name = adapter.key.partition("/")
        if not self._settings.warm_versions or kind != "user":
            return
        tokenizer = self._engine.tokenizer
        try:
            memory, _ = await self._memory.recall(name, before=None)
            if self._settings.recall != "recency":
                memory = RecalledMemory(profile=memory.profile)
            if not memory.profile and not memory.episodes:
                return
            messages: list[Message] = [
                {"role": "system", "content": memory_text(memory, tokenizer.special)},
                {"role": "user", "content": ""},
            ]
            prompt = tokenizer.encode(tokenizer.render(messages))
            await self._read(prompt, adapter)
        except EngineDied:
            raise
        except Exception as error:
            log.warning("a version's memory was not read ahead", adapter=adapter.name, why=str(error))

    async def _read(self, prompt: Sequence[int], adapter: AdapterRef) -> None:
        """Piece by piece, each after what the one before it left in the prefix cache: a long prompt read at once would
        fill a step of the engine, and whoever chats meanwhile would wait for it."""
        piece = self._settings.warm_step_tokens
        for end in range(piece, len(prompt) + piece, piece):
            await self._lull()
            await self._engine.generate(
                prompt[:end], Sampling(max_tokens=1), adapter=adapter, priority=Priority.PARITY_CHECK
            )
