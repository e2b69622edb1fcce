"""What `/readyz` knows: the store, the disk, the artifact store, and the background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from mindprint_server.exceptions import ArtifactUnavailable, StorageFull
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
        ping_artifacts: Asks the artifact store for an answer; raises ArtifactUnavailable. None: there is none.
    """

    def __init__(
        self,
        settings: OperationSettings,
        folder: Path,
        *,
        store: Store,
        supervisor: Supervisor,
        ping_artifacts: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._ping_artifacts = ping_artifacts
        self._folder = folder
        self._store = store
        self._supervisor = supervisor
        self._store_problem: str | None = None
        self._disk_problem: str | None = None
        self._artifact_problem: str | None = None
        self._pings: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._artifact_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start looking."""
        self._task = self._supervisor.start_loop("probe", self.probe, self._pause)
        if self._ping_artifacts is not None:
            self._artifact_task = self._supervisor.start_loop(
                "artifact probe", self.probe_artifacts, self._pause_artifacts
            )

    async def stop(self) -> None:
        """Stop looking."""
        for task in (self._task, self._artifact_task, *self._pings.values()):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def problems(self) -> dict[str, str]:
        """Return why the server is not ready, by what fails; empty if it is ready."""
        found = {"store": self._store_problem, "disk": self._disk_problem, "artifacts": self._artifact_problem}
        return {name: why for name, why in found.items() if why} | self._supervisor.failing()

    def check_writable(self) -> None:
        """Raise StorageFull if there is too little free space for a write."""
        if self._disk_problem:
            raise StorageFull("storage_full", f"{self._disk_problem}: free some space, then try again")

    def check_artifacts(self) -> None:
        """Raise ArtifactUnavailable if the last probe found the artifact store unusable."""
        if self._artifact_problem:
            raise ArtifactUnavailable("the upload cannot be stored", self._artifact_problem)

    async def probe_artifacts(self) -> bool:
        """Look at the artifact store once."""
        assert self._ping_artifacts is not None
        self._artifact_problem = await self._ask("the artifact store", self._ping_artifacts)
        return True

    async def _pause_artifacts(self) -> None:
        await asyncio.sleep(self._settings.artifact_probe_interval_s)

    async def probe(self) -> bool:
        """Look at the store and the disk once."""
        self._store_problem = await self._ask("the database", self._store.ping)
        self._disk_problem = await asyncio.to_thread(self._look_at_disk)
        return True

    async def _ask(self, what: str, ping: Callable[[], Awaitable[None]]) -> str | None:
        """Return what is wrong with something that has to answer; None if it answers."""

        async def wait() -> None:
            await ping()

        # A ping that hangs is not joined by a second one: it holds a connection, or a thread.
        if (running := self._pings.get(what)) is None or running.done():
            running = self._pings[what] = asyncio.create_task(wait())
        _, waiting = await asyncio.wait([running], timeout=self._settings.probe_timeout_s)
        if waiting:
            return f"{what} has not answered for {self._settings.probe_timeout_s:g} s"
        error = running.exception()
        if error is None:
            return None
        return str(error) if isinstance(error, StoreError) else describe(error)

    def _look_at_disk(self) -> str | None:
        return describe_low_disk(disk.free_bytes(self._folder), self._settings.min_free_bytes)

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.probe_interval_s)
