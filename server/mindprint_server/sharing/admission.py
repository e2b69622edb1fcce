"""Admits interactive requests to the engine, tenant by tenant, and lets background work wait until none runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from mindprint_server.exceptions import LimitExceeded
from mindprint_server.sharing.fair_queue import FairQueue, Ticket
from mindprint_server.tenancy import current_tenant


class AdmissionController:
    """Counts the answers of interactive requests. Those above the limit wait, and the tenants are served in turn.

    Batches are not counted: `generation.concurrency` limits them.

    Args:
        limit: Maximum number of answers at the same time.
        retry_after_s: Seconds after which a refused caller should try again.
        max_idle_wait_s: Longest time in seconds that `wait_until_idle` waits.
        max_waiting: Maximum number of requests of one tenant that wait.
        reserved_share: Share of `limit` that one tenant leaves free for others, once a second one has asked.
    """

    def __init__(
        self,
        limit: int,
        retry_after_s: int,
        max_idle_wait_s: float = 1.0,
        *,
        max_waiting: int = 0,
        reserved_share: float = 0.0,
    ) -> None:
        reserved = min(limit - 1, math.ceil(limit * reserved_share))
        self._queue = FairQueue(limit, reserved=reserved)
        self._reserved = reserved
        self._max_waiting = max_waiting
        self._limit = limit
        self._retry_after_s = retry_after_s
        self._max_idle_wait_s = max_idle_wait_s
        self._admissions: dict[Ticket, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def enter(self, answers: int = 1, *, max_wait_s: float | None = None) -> AsyncIterator[None]:
        """Wait until the running work's tenant has its turn, then count one request while the block runs.

        Args:
            answers: Sequences that the request generates at once. It counts as many times.
            max_wait_s: Longest time in seconds to wait for the turn; None: the caller bounds it.

        Raises:
            LimitExceeded: Too many requests of the tenant wait already.
            TimeoutError: The turn did not come in time.
        """
        ticket = self._add(current_tenant(), answers)
        try:
            async with asyncio.timeout(max_wait_s):
                await self._admissions[ticket].wait()
            yield
        finally:
            self._remove(ticket)

    def reserved_beside(self, tenants: Collection[str]) -> int:
        """Return the slots that batches of these tenants leave free: none where nobody else has asked for an answer."""
        seen = self._queue.seen
        return self._reserved if seen and len(seen | set(tenants)) > 1 else 0

    def _add(self, tenant: str, answers: int) -> Ticket:
        ticket = self._queue.add(tenant, answers)
        self._admissions[ticket] = asyncio.Event()
        self._idle.clear()
        self._admit()
        if (waiting := self._queue.count_waiting(tenant)) > self._max_waiting:
            self._remove(ticket)
            message = (
                f"{self._queue.held} of at most {self._limit} answers are being written, and {waiting - 1} requests of "
                f"tenant {tenant} wait already: retry in a moment"
            )
            raise LimitExceeded("server_busy", message, retry_after=self._retry_after_s)
        return ticket

    def _remove(self, ticket: Ticket) -> None:
        del self._admissions[ticket]
        self._queue.remove(ticket)
        self._admit()
        if not self._admissions:
            self._idle.set()

    def _admit(self) -> None:
        for ticket in self._queue.admit():
            self._admissions[ticket].set()

    async def wait_until_idle(self) -> None:
        """Wait until no interactive request runs or waits, at most `max_idle_wait_s` seconds.

        Background work calls this before each engine step that it fills.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_idle_wait_s):
                await self._idle.wait()
