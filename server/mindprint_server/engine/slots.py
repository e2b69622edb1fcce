"""How many different adapters may be in the engine's hands at once; requests for one more wait for one to be done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mindprint_server.engine.protocol import AdapterRef


class Slots:
    """Counts requests by adapter. The base needs no slot."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: Counter[int] = Counter()
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, adapter: AdapterRef | None) -> AsyncIterator[None]:
        """Waits while `count` other adapters are being computed; the adapter is one of them while the block runs."""
        if adapter is None:
            yield
            return
        id = adapter.engine_id
        async with self._freed:
            await self._freed.wait_for(lambda: id in self._held or len(self._held) < self._count)
            self._held[id] += 1
        try:
            yield
        finally:
            # Not awaited before the count is right: the caller may be cancelled.
            self._held[id] -= 1
            if not self._held[id]:
                del self._held[id]
                async with self._freed:
                    self._freed.notify_all()
