"""Prefills a user's memory through a new version, so that the version's first request hits the prefix cache.

The engine caches prefixes per version. Without this, the first request to a new version waits until all of the memory
that queries share is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from mindprint.types.keys import AdapterKey
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, EngineDied, Message, Priority, Sampling
from mindprint_server.memory import MemoryService
from mindprint_server.prompts.templates import memory_text
from mindprint_server.sharing.admission import AdmissionController

log = structlog.get_logger(__name__)


class PrefixPrefetcher:
    """Prefills the memory that requests to a version share.

    Args:
        ctx: Settings and engine of the server.
        memory: Recalls the memory of a user.
        admission: Knows when no interactive request runs.
    """

    def __init__(self, ctx: ServerContext, *, memory: MemoryService, admission: AdmissionController) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._memory = memory
        self._admission = admission

    async def prefetch(self, adapter: AdapterRef) -> None:
        """Prefill the user's memory through a loaded version.

        If the recalled engagements depend on the query, only the profile is prefilled; without a profile, nothing is. A
        cohort has no memory. Failures other than EngineDied are logged: the first request then takes longer.

        Raises:
            EngineDied: The engine process is gone.
        """
        key = AdapterKey(adapter.key)
        if not self._settings.prefetch_prefixes or key.kind != "user":
            return
        tokenizer = self._engine.tokenizer
        try:
            memory = await self._memory.recall_shared(key.name)
            if not memory.profile and not memory.episodes:
                return
            messages: list[Message] = [
                {"role": "system", "content": memory_text(memory, tokenizer.special)},
                {"role": "user", "content": ""},
            ]
            prompt = tokenizer.encode(tokenizer.render(messages))
            await self._prefill(prompt, adapter)
        except EngineDied:
            raise
        except Exception as error:
            log.warning("a version's memory was not prefilled", adapter=adapter.name, why=str(error))

    async def _prefill(self, prompt: Sequence[int], adapter: AdapterRef) -> None:
        # Prefill in steps, each on the cached prefix of the one before. A long prompt in one engine step would keep
        # interactive requests waiting.
        step = self._settings.prefetch_step_tokens
        for end in range(step, len(prompt) + step, step):
            await self._admission.wait_until_idle()
            await self._engine.generate(
                prompt[:end], Sampling(max_tokens=1), adapter=adapter, priority=Priority.PARITY_CHECK
            )
