"""Commits finished items together: one transaction for all that finished while the one before was being written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from mindprint_server.store import Busy, Store
from mindprint_server.store.batches import ItemResult

log = structlog.get_logger(__name__)


class ResultWriter:
    """`put` returns once an item is durable. `told` is awaited after each commit."""

    def __init__(self, store: Store, told: Callable[[], Awaitable[None]], *, retry_s: float = 0.5) -> None:
        self._store = store
        self._retry_s = retry_s
        self._told = told
        self._pending: list[tuple[ItemResult, asyncio.Future[bool]]] = []
        self._some = asyncio.Event()
        self._since: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="commits")

    async def stop(self) -> None:
        """What is not committed by now is done again after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._pending:
            future.cancel()

    def begin(self, batch_id: str) -> None:
        """From now on, time is counted as this batch's."""
        self._since[batch_id] = time.monotonic()

    async def end(self, batch_id: str) -> None:
        """Adds what time has passed since the last commit; nothing more is counted."""
        seconds = self._passed([batch_id])
        self._since.pop(batch_id, None)
        await self._store.batches.finish_items([], seconds)

    async def put(self, done: ItemResult) -> bool:
        """False: the user, the engagement or the batch is gone, and nothing was stored. Raises what the store does."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pending.append((done, future))
        self._some.set()
        return await future

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            taken, self._pending = self._pending, []
            try:
                seconds = self._passed({done.batch_id for done, _ in taken})
                gone = await self._store.batches.finish_items([done for done, _ in taken], seconds)
            except asyncio.CancelledError:
                for _, future in taken:
                    future.cancel()
                raise
            except Busy as error:
                log.warning("items not stored yet", items=len(taken), why=str(error))
                self._pending = [*taken, *self._pending]
                self._some.set()
                await asyncio.sleep(self._retry_s)
            except Exception as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
            else:
                for done, future in taken:
                    if not future.done():  # its caller may have been cancelled
                        future.set_result(all(done is not lost for lost in gone))
                await self._told()

    def _passed(self, batch_ids: set[str] | list[str]) -> dict[str, float]:
        now = time.monotonic()
        seconds = {}
        for id in batch_ids:
            if id in self._since:
                seconds[id] = now - self._since[id]
                self._since[id] = now
        return seconds
