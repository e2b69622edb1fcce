"""The audit log: a row before each change, its status after it, and the same as a line in a file."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mindprint.private_files import FILE
from mindprint.types import AuditEvent
from mindprint_server.operation.supervision import Supervisor
from mindprint_server.settings import OperationSettings
from mindprint_server.store import Store, StoreError


class AuditLog:
    """Writes events, and removes those that are too old.

    Args:
        settings: The file, and for how long events are kept.
        store: Where events are kept.
        supervisor: Runs the removal, and counts what fails.
    """

    def __init__(self, settings: OperationSettings, *, store: Store, supervisor: Supervisor) -> None:
        self._settings = settings
        self._store = store
        self._supervisor = supervisor
        self._file_lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to remove old events, now and then."""
        self._task = self._supervisor.start_loop("audit", self.remove_old, self._pause)

    async def stop(self) -> None:
        """Stop to remove old events."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def begin(self, event: AuditEvent) -> None:
        """Store an event before its change. If this raises, the change must not be made.

        Raises:
            StoreError: The database cannot store it.
        """
        await self._store.audit.add(event)

    async def finish(self, event: AuditEvent) -> None:
        """Store what became of a change, and write its line. The change is made: a failure is only reported."""
        try:
            await self._store.audit.finish(event)
        except StoreError as error:
            self._supervisor.report("audit", error)
        await self._write_line(event)

    async def record(self, event: AuditEvent) -> None:
        """Store an event whose status is known, and write its line.

        Raises:
            StoreError: The database cannot store it.
        """
        await self._store.audit.add(event)
        await self._write_line(event)

    async def remove_old(self, *, now: datetime | None = None) -> bool:
        """Remove the events that are older than `audit_keep_days`."""
        if self._settings.audit_keep_days is not None:
            age = timedelta(days=self._settings.audit_keep_days)
            await self._store.audit.remove_before((now or datetime.now(UTC)) - age)
        return True

    async def _write_line(self, event: AuditEvent) -> None:
        if self._settings.audit_file is None:
            return
        try:
            async with self._file_lock:
                await asyncio.to_thread(append_line, self._settings.audit_file, event.model_dump_json())
        except OSError as error:
            self._supervisor.report("audit file", error)

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.audit_prune_interval_s)


def append_line(file: Path, line: str) -> None:
    """Append a line to a file, which only its owner may read. Each call opens it, so that it may be rotated.

    Raises:
        OSError: It cannot be written.
    """
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE)
    with open(handle, "w", encoding="utf-8") as out:
        out.write(f"{line}\n")
