"""Group commit of results: one transaction for all items that finished during the previous transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from mindprint_server.operation.supervision import PASSING, Supervisor
from mindprint_server.store import Store
from mindprint_server.store.batches import ItemResult


class ResultWriter:
    """Writes the results of items, and counts the time that their batches took."""

    def __init__(self, store: Store, on_commit: Callable[[], Awaitable[None]], *, supervisor: Supervisor) -> None:
        """Create a writer.

        Args:
            store: Where the results are written.
            on_commit: Awaited after each commit.
            supervisor: Runs the task that writes, and tries again while the database is busy or full.
        """
        self._store = store
        self._supervisor = supervisor
        self._on_commit = on_commit
        self._pending: list[tuple[ItemResult, asyncio.Future[bool]]] = []
        self._has_pending = asyncio.Event()
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
        for _, future in self._pending:
            future.cancel()

    def begin(self, batch_id: str) -> None:
        """Count time for a batch from now on."""
        self._since[batch_id] = time.monotonic()

    async def end(self, batch_id: str) -> None:
        """Add the time since the last commit to a batch, and stop counting time for it."""
        seconds = self._elapsed([batch_id])
        self._since.pop(batch_id, None)
        await self._store.batches.finish_items([], seconds)

    async def write(self, result: ItemResult) -> bool:
        """Write a result; return once it is durable.

        Returns:
            False if the user, the engagement or the batch is gone: then nothing was stored.

        Raises:
            StoreError: The store refused the result. A busy or full store is tried again instead.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pending.append((result, future))
        self._has_pending.set()
        return await future

    async def _write_pending(self) -> bool:
        """Write all pending results in one commit; they stay pending if the store is busy or full."""
        self._has_pending.clear()
        taken, self._pending = self._pending, []
        if not taken:
            return True
        try:
            seconds = self._elapsed({result.batch_id for result, _ in taken})
            gone = await self._store.batches.finish_items([result for result, _ in taken], seconds)
        except asyncio.CancelledError:
            for _, future in taken:
                future.cancel()
            raise
        except PASSING:
            self._pending = [*taken, *self._pending]
            raise
        except Exception as error:
            for _, future in taken:
                if not future.done():
                    future.set_exception(error)
        else:
            for result, future in taken:
                if not future.done():  # its caller may have been cancelled
                    future.set_result(all(result is not lost for lost in gone))
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
