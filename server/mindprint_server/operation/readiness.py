"""What `/readyz` knows: the store, the disk, and the background tasks."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mindprint_server.exceptions import StorageFull
from mindprint_server.operation import disk
from mindprint_server.operation.supervision import Supervisor, describe
from mindprint_server.settings import OperationSettings
from mindprint_server.store import Store, StoreError


def describe_low_disk(free: int, min_free: int) -> str | None:
    """Return what is wrong with the free space, in bytes; None for enough."""
    if free >= min_free:
        return None
    return f"{free} bytes are free on the disk of data_dir, less than min_free_bytes ({min_free})"


class Readiness:
    """Looks at the store and the disk in the background, so that nobody waits for them.

    Args:
        settings: Intervals and bounds.
        folder: The data folder.
        store: The store.
        supervisor: Knows the background tasks that fail.
    """

    def __init__(self, settings: OperationSettings, folder: Path, *, store: Store, supervisor: Supervisor) -> None:
        self._settings = settings
        self._folder = folder
        self._store = store
        self._supervisor = supervisor
        self._store_problem: str | None = None
        self._disk_problem: str | None = None
        self._ping: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start looking."""
        self._task = self._supervisor.start_loop("probe", self.probe, self._pause)

    async def stop(self) -> None:
        """Stop looking."""
        for task in (self._task, self._ping):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def problems(self) -> dict[str, str]:
        """Return why the server is not ready, by what fails; empty if it is ready."""
        found = {"store": self._store_problem, "disk": self._disk_problem}
        return {name: why for name, why in found.items() if why} | self._supervisor.failing()

    def check_writable(self) -> None:
        """Raise StorageFull if there is too little free space for a write."""
        if self._disk_problem:
            raise StorageFull("storage_full", f"{self._disk_problem}: free some space, then try again")

    async def probe(self) -> bool:
        """Look at the store and the disk once."""
        self._store_problem = await self._look_at_store()
        self._disk_problem = await asyncio.to_thread(self._look_at_disk)
        return True

    async def _look_at_store(self) -> str | None:
        # A ping that hangs is not joined by a second one: it holds a connection.
        if self._ping is None or self._ping.done():
            self._ping = asyncio.create_task(self._store.ping())
        _, waiting = await asyncio.wait([self._ping], timeout=self._settings.probe_timeout_s)
        if waiting:
            return f"the database has not answered for {self._settings.probe_timeout_s:g} s"
        error = self._ping.exception()
        if error is None:
            return None
        return str(error) if isinstance(error, StoreError) else describe(error)

    def _look_at_disk(self) -> str | None:
        return describe_low_disk(disk.free_bytes(self._folder), self._settings.min_free_bytes)

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.probe_interval_s)
