"""Limits the interactive requests that run at the same time, and lets background work wait until none runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mindprint_server.exceptions import LimitExceeded


class AdmissionController:
    """Counts interactive requests. Batches are not counted: `generation.concurrency` limits them.

    Args:
        limit: Maximum number of requests at the same time.
        retry_after_s: Seconds after which a refused caller should try again.
        max_idle_wait_s: Longest time in seconds that `wait_until_idle` waits.
    """

    def __init__(self, limit: int, retry_after_s: int, max_idle_wait_s: float = 1.0) -> None:
        self._limit = limit
        self._retry_after_s = retry_after_s
        self._max_idle_wait_s = max_idle_wait_s
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count one request while the block runs.

        Raises:
            LimitExceeded: The limit is reached.
        """
        if self._active >= self._limit:
            message = f"{self._limit} requests are being answered already: retry in a moment"
            raise LimitExceeded("server_busy", message, retry_after=self._retry_after_s)
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until no interactive request runs, at most `max_idle_wait_s` seconds.

        Background work calls this before each engine step that it fills.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_idle_wait_s):
                await self._idle.wait()
