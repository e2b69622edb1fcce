"""How much interactive work may be under way at once, the rest is told to come again (invariant 9); and when there is
none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from mindprint_server.exceptions import LimitExceeded

Lull = Callable[[], Awaitable[None]]
"""`Admission.lull`."""


class AdmissionController:
    """Counts callers in and out. Batches do not come through here: they keep their own number in flight."""

    def __init__(self, limit: int, retry_after_s: int, patience_s: float = 1.0) -> None:
        self._limit = limit
        self._retry_after_s = retry_after_s
        self._patience_s = patience_s
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Holds one place while the block runs. Raises LimitExceeded when there is none."""
        if self._inside >= self._limit:
            message = f"{self._limit} requests are being answered already: retry in a moment"
            raise LimitExceeded("server_busy", message, retry_after=self._retry_after_s)
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def lull(self) -> None:
        """Returns when nobody is being answered, but after `patience_s` seconds at the latest: awaited by work that
        nobody waits for before it fills a step of the engine."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await self._empty.wait()
