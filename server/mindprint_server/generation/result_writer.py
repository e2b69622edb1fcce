"""Group commit of results: one transaction for all items of a tenant that finished during the previous transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from mindprint_server.operation.supervision import PASSING, Supervisor
from mindprint_server.store import Store
from mindprint_server.store.batches import DropReason, ItemResult
from mindprint_server.tenancy import current_tenant, in_tenant


class ResultWriter:
    """Writes the results of items, and counts the time that their batches took."""

    def __init__(
        self,
        store: Store,
        on_commit: Callable[[], Awaitable[None]],
        *,
        supervisor: Supervisor,
        owner: str | None = None,
    ) -> None:
        """Create a writer.

        Args:
            store: Where the results are written.
            on_commit: Awaited after each commit.
            supervisor: Runs the task that writes, and tries again while the database is busy or full.
            owner: The server whose claims must hold for its results to be stored; None: it does not matter.
        """
        self._store = store
        self._supervisor = supervisor
        self._on_commit = on_commit
        self._owner = owner
        self._pending: list[tuple[str, ItemResult, asyncio.Future[DropReason | None]]] = []
        """Tenants with results that are not written, and who waits for each."""
        self._has_pending = asyncio.Event()
        self._writing = asyncio.Lock()
        self._since: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task that writes."""
        self._task = self._supervisor.start_loop("commits", self._write_pending, self._has_pending.wait)

    async def stop(self) -> None:
        """Stop writing. Items that are not committed by now are processed again after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, _, future in self._pending:
            future.cancel()

    def begin(self, batch_id: str) -> None:
        """Count time for a batch from now on; one for which it is counted does not change."""
        self._since.setdefault(batch_id, time.monotonic())

    async def end(self, batch_id: str) -> None:
        """Add the time since the last commit to a batch, and stop counting time for it."""
        seconds = self._elapsed([batch_id])
        self._since.pop(batch_id, None)
        await self._store.batches.finish_items([], seconds)

    def discard(self, batch_id: str) -> None:
        """Stop counting time for a batch on which this server does not work any more, or not for now."""
        self._since.pop(batch_id, None)

    async def wait_for_commit(self) -> None:
        """Wait until the commit that is being written, if there is one, has ended and its callers know."""
        async with self._writing:
            pass

    async def write(self, result: ItemResult) -> DropReason | None:
        """Write a result; return once it is durable.

        Returns:
            Why nothing was stored; None if it was.

        Raises:
            StoreError: The store refused the result. A busy or full store is tried again instead.
        """
        future: asyncio.Future[DropReason | None] = asyncio.get_running_loop().create_future()
        self._pending.append((current_tenant(), result, future))
        self._has_pending.set()
        return await future

    async def _write_pending(self) -> bool:
        """Write all pending results of a tenant in one commit; they stay pending if the store is busy or full."""
        async with self._writing:
            return await self._write_taken()

    async def _write_taken(self) -> bool:
        self._has_pending.clear()
        if not self._pending:
            return True
        tenant = self._pending[0][0]
        taken = [waiting for waiting in self._pending if waiting[0] == tenant]
        self._pending = [waiting for waiting in self._pending if waiting[0] != tenant]
        if self._pending:
            self._has_pending.set()
        try:
            seconds = self._elapsed({result.batch_id for _, result, _ in taken})
            results = [result for _, result, _ in taken]
            with in_tenant(tenant):
                dropped = await self._store.batches.finish_items(results, seconds, owner=self._owner)
        except asyncio.CancelledError:
            for _, _, future in taken:
                future.cancel()
            raise
        except PASSING:
            self._pending = [*taken, *self._pending]
            raise
        except Exception as error:
            for _, _, future in taken:
                if not future.done():
                    future.set_exception(error)
        else:
            reasons = {id(result): reason for result, reason in dropped}
            for _, result, future in taken:
                if not future.done():  # its caller may have been cancelled
                    future.set_result(reasons.get(id(result)))
            await self._on_commit()
        return True

    def _elapsed(self, batch_ids: set[str] | list[str]) -> dict[str, float]:
        now = time.monotonic()
        seconds = {}
        for id in batch_ids:
            if id in self._since:
                seconds[id] = now - self._since[id]
                self._since[id] = now
        return seconds
