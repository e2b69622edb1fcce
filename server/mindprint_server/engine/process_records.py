"""Which processes the engine of a server has, on disk, so that the next start ends what a killed server left.

A process is known by its number and the time of its start, for numbers are used again. Only Linux tells that time:
elsewhere nothing is recorded and nothing is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import select
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from mindprint.private_files import make_private, make_private_folder

log = structlog.get_logger(__name__)
PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
START_FIELD = 19
"""Position of `starttime` in /proc/PID/stat, counted from the field after the name."""
ENDED = ("Z", "X")
"""States of a process that has ended and whose parent has not asked for its exit code."""
RECORD_INTERVAL_S = 0.2


@dataclass(frozen=True)
class ProcessId:
    """One process, for good.

    Attributes:
        pid: Its number.
        started: The boot of the machine, and the clock ticks since then at which the process began.
    """

    pid: int
    started: str


@dataclass(frozen=True)
class EngineRecord:
    """The processes that one server started for its engine."""

    server: ProcessId
    children: tuple[ProcessId, ...]


def identify(pid: int) -> ProcessId | None:
    """Return who has a process number now; None if nobody has, or the process has ended."""
    try:
        fields = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        boot = BOOT_ID.read_text("ascii").strip()
    except OSError:
        return None
    return None if fields[0] in ENDED else ProcessId(pid, f"{boot}/{fields[START_FIELD]}")


def is_running(process: ProcessId) -> bool:
    """Return whether this process still runs, and not another one with its number."""
    return identify(process.pid) == process


def leftovers(record: EngineRecord) -> list[ProcessId]:
    """Return the processes that must end: those that still run while their server does not."""
    return [] if is_running(record.server) else [child for child in record.children if is_running(child)]


def kill(process: ProcessId, timeout_s: float) -> bool:
    """Kill one process and wait for its end.

    Args:
        process: Whom. Another process with the same number is left alone.
        timeout_s: Longest wait.

    Returns:
        Whether the process has ended.

    Raises:
        OSError: It is another account's.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:  # the handle keeps the number from being given to another process between the look and the signal
        if not is_running(process):
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        return bool(waiting.poll(timeout_s * 1000))
    finally:
        os.close(handle)


class ProcessRecords:
    """Records the children of this process, one file for each server in a folder.

    Args:
        folder: Where the files are. Servers that share a data folder may share it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / f"{os.getpid()}.json"
        self._before: set[int | None] = set()
        self._recorded: EngineRecord | None = None

    def end_leftovers(self, timeout_s: float) -> int:
        """Kill what killed servers left, and remove their files.

        Args:
            timeout_s: Longest wait for the end of one process.

        Returns:
            The number of processes that were ended. One that could not be ended is logged, and its file stays.
        """
        ended = 0
        for file in sorted(self._folder.glob("*.json")):
            if (record := _read(file)) is None or is_running(record.server):
                continue
            left = leftovers(record)
            gone = [process for process in left if _end(process, timeout_s)]
            ended += len(gone)
            if len(gone) == len(left):
                file.unlink(missing_ok=True)
        return ended

    @asynccontextmanager
    async def recording(self) -> AsyncIterator[None]:
        """Record the processes that `multiprocessing` starts while the block runs, soon after they start."""
        self._before = {child.pid for child in multiprocessing.active_children()}
        task = asyncio.create_task(self._record_often())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await asyncio.to_thread(self._record)

    def remove(self) -> None:
        """Remove this server's file: its engine has ended in order."""
        self._file.unlink(missing_ok=True)

    async def _record_often(self) -> None:
        while True:
            await asyncio.to_thread(self._record)
            await asyncio.sleep(RECORD_INTERVAL_S)

    def _record(self) -> None:
        pids = {child.pid for child in multiprocessing.active_children()} - self._before
        server, children = identify(os.getpid()), _identify_all(pid for pid in pids if pid is not None)
        if server is None or not children or (record := EngineRecord(server, children)) == self._recorded:
            return
        make_private_folder(self._folder)
        _write(self._file, record)
        self._recorded = record


def _end(process: ProcessId, timeout_s: float) -> bool:
    """Kill one process; log what it was, or why it could not be killed."""
    log.warning("ending the engine of a server that was killed", pid=process.pid)
    try:
        if kill(process, timeout_s):
            return True
        why = f"it did not end within {timeout_s:g} s"
    except OSError as error:
        why = error.strerror or type(error).__name__
    log.error("the engine of a killed server still runs: end it by hand", pid=process.pid, why=why)
    return False


def _identify_all(pids: Iterable[int]) -> tuple[ProcessId, ...]:
    return tuple(found for pid in sorted(pids) if (found := identify(pid)) is not None)


def _write(file: Path, record: EngineRecord) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(record)), "utf-8")
    make_private(part)
    part.replace(file)


def _read(file: Path) -> EngineRecord | None:
    """Return a record; None for a file that is gone or that is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        data = json.loads(file.read_text("utf-8"))
        return EngineRecord(ProcessId(**data["server"]), tuple(ProcessId(**child) for child in data["children"]))
    return None
