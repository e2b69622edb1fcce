"""Passes the progress of batches on to those who watch them. One poller reads a batch, however many watch it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from mindprint.types import Batch
from mindprint_server.exceptions import LimitExceeded
from mindprint_server.settings import GenerationSettings
from mindprint_server.store import Store, StoreBusy
from mindprint_server.tenancy import of_tenant

FINAL = frozenset({"done", "failed", "cancelled"})
"""States in which a batch does not change any more."""


@dataclass
class _WatchedBatch:
    """A batch with at least one watcher."""

    watchers: int = 0
    newest: Batch | None = None
    error: Exception | None = None
    """Why its progress cannot be read any more."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, with each change of `newest` or `error`."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when this server changed a batch, so that the poller need not wait longer."""
    poller: asyncio.Task[None] | None = None
    is_stopped: bool = False

    def publish(self) -> None:
        """Wake all watchers."""
        self.changed.set()
        self.changed = asyncio.Event()


class BatchWatchers:
    """Lets many callers watch batches at the cost of one read of the store for each batch and interval.

    The store is polled, so that batches that another server runs are seen too.
    """

    def __init__(self, store: Store, settings: GenerationSettings) -> None:
        self._store = store
        self._settings = settings
        self._watched: dict[tuple[str, str], _WatchedBatch] = {}

    @property
    def count(self) -> int:
        """Number of watchers of all batches."""
        return sum(watched.watchers for watched in self._watched.values())

    def notify(self) -> None:
        """Say that this server changed a batch."""
        for watched in self._watched.values():
            watched.wake.set()

    def stop(self) -> None:
        """Stop reading the store and end all watching. The server is about to close the store."""
        for watched in self._watched.values():
            watched.is_stopped = True
            if watched.poller is not None:
                watched.poller.cancel()
            watched.publish()

    async def watch(self, batch_id: str) -> AsyncGenerator[Batch]:
        """Yield the batch now and after each change, at most one in `watch_interval_s`; end with a final state.

        Raises:
            LimitExceeded: `max_watchers` watch already.
            RecordNotFound: The batch does not exist.
        """
        if self.count >= self._settings.max_watchers:
            message = (
                f"{self._settings.max_watchers} callers watch batches already: poll GET /v1/batches/{{id}} instead"
            )
            raise LimitExceeded("too_many_watchers", message)
        # Read the tenant once: a stream that nobody closed is closed by the event loop, in a context without a tenant.
        key = of_tenant(batch_id)
        watched = self._watched.setdefault(key, _WatchedBatch())
        watched.watchers += 1
        if watched.poller is None:
            watched.poller = asyncio.create_task(self._poll(batch_id, watched), name=f"watch {batch_id}")
        try:
            seen: Batch | None = None
            while True:
                if watched.newest is not None and watched.newest is not seen:
                    seen = watched.newest
                    yield seen
                    if seen.state in FINAL:
                        return
                elif watched.error is not None:
                    raise watched.error
                elif watched.is_stopped:
                    return
                else:
                    await watched.changed.wait()
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                del self._watched[key]
                watched.poller.cancel()

    async def _poll(self, batch_id: str, watched: _WatchedBatch) -> None:
        """Read the batch again and again until it ends."""
        interval_s = self._settings.watch_interval_s
        while watched.newest is None or watched.newest.state not in FINAL:
            watched.wake.clear()
            batch = watched.newest
            try:
                batch = await self._store.batches.get(batch_id)
            except Exception as error:
                if isinstance(error, StoreBusy) and watched.newest is not None:
                    await asyncio.sleep(interval_s)  # the next read may succeed
                    continue
                watched.error = error
                watched.publish()
                return
            if batch != watched.newest:
                watched.newest = batch
                watched.publish()
            await asyncio.sleep(interval_s)
            # A change of another server does not wake this one, so this wait is bounded too. `asyncio.wait_for` would
            # lose a cancellation that comes together with the wake-up (Python 3.11).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await watched.wake.wait()
