"""Limits the interactive requests that run at the same time, and lets background work wait until none runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mindprint_server.exceptions import LimitExceeded


class AdmissionController:
    """Counts the answers of interactive requests. Batches are not counted: `generation.concurrency` limits them.

    Args:
        limit: Maximum number of answers at the same time.
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
    def enter(self, answers: int = 1) -> Iterator[None]:
        """Count one request while the block runs.

        Args:
            answers: Sequences that the request generates at once. It counts as many times.

        Raises:
            LimitExceeded: The limit is reached.
        """
        if self._active + answers > self._limit:
            message = f"{self._active} of at most {self._limit} answers are being written already: retry in a moment"
            raise LimitExceeded("server_busy", message, retry_after=self._retry_after_s)
        self._active += answers
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= answers
            if not self._active:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until no interactive request runs, at most `max_idle_wait_s` seconds.

        Background work calls this before each engine step that it fills.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_idle_wait_s):
                await self._idle.wait()
