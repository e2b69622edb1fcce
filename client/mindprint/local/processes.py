"""Child processes of this process: each in a session of its own, and all ended when this process ends.

Every process that a child starts inherits a mark in its environment. Stopping kills whatever carries the mark, so
engine processes that outlive their parent do not stay. A guard process does the same when this process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from mindprint.local.process_guard import MARK, sweep

GRACE_S = 5.0
"""Seconds from the request to stop until the kill."""
WATCH_EVERY_S = 0.5
T = TypeVar("T")

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\S+ \[\w+\s*\] (?P<event>.*)$")
_LOGGER = re.compile(r"\s*\[[\w.]+\]\s*")


class ProcessFailed(Exception):
    """A child process ended too early, or was not ready in time. The message names its log."""


class Child:
    """A started process with its log file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Return the exit code; None while the process runs."""
        return self._process.poll()

    def running(self) -> bool:
        """Return whether the process has not ended."""
        return self._process.poll() is None

    def check(self) -> None:
        """Check that the process still runs.

        Raises:
            ProcessFailed: It has ended. The message holds the end of its log.
        """
        if not self.running():
            tail = "\n".join(self.tail(12))
            raise ProcessFailed(f"the {self.name} ended with code {self._process.returncode} (log: {self.log})\n{tail}")

    def kill(self) -> None:
        """Kill the process and its group at once, as `kill -9` does."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int) -> list[str]:
        """Return the last lines of the log, without colours."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 16_384))
            text = stream.read().decode(errors="replace")
        return _ANSI.sub("", text).replace("\r", "\n").strip().splitlines()[-lines:]

    def doing(self) -> str:
        """Return the event that the process logged last, for a progress line; empty if there is none yet."""
        for line in reversed(self.tail(50)):
            if found := _LOG_LINE.match(line):
                return " ".join(_LOGGER.sub(" ", found["event"], count=1).split())
        return ""

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process, if it runs."""
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait until the process ends or `deadline` (`time.monotonic`) comes, then kill its group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _inherited() -> dict[str, str]:
    """Return this environment without the admin key: a server on loopback that only this process uses needs none."""
    return {name: value for name, value in os.environ.items() if name != "MINDPRINT_ADMIN_KEY"}


class Processes:
    """Start child processes. Leaving the `with` block ends them and all that they started."""

    def __init__(self, folder: Path, *, grace_s: float = GRACE_S) -> None:
        """Start nothing yet.

        Args:
            folder: An existing folder for the logs.
            grace_s: Seconds from the request to stop until the kill.
        """
        self.folder = folder
        self._grace_s = grace_s
        self._mark = uuid.uuid4().hex
        self._children: list[Child] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # The guard reads from a pipe that only this process can write to. So the pipe closes when this process ends.
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "mindprint.local.process_guard", self._mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        main = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            self.stop()
        finally:
            for number, handler in main:
                signal.signal(number, handler)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Run `python -m <command>`; its output is appended to `<folder>/<name>.log`.

        Args:
            name: Name of the log and of the process in messages.
            command: Module and its arguments.
            environment: Variables in addition to those of this process.
        """
        log = self.folder / f"{name}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={"HF_HUB_OFFLINE": "1", **_inherited(), **environment, MARK: self._mark},
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Ask all processes to stop, wait up to `grace_s` seconds, then kill what is left."""
        for child in self._children:
            child.ask_to_stop()
        deadline = time.monotonic() + self._grace_s
        for child in self._children:
            child.wait(deadline)
        self._children.clear()
        sweep(self._mark)
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None


def free_port() -> int:
    """Return a TCP port on the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def while_running(child: Child, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, and cancel it as soon as `child` ends before it.

    Raises:
        ProcessFailed: The child ended first.
    """

    async def watch() -> None:
        while True:
            child.check()
            await asyncio.sleep(WATCH_EVERY_S)

    task, watching = asyncio.create_task(work), asyncio.create_task(watch())
    try:
        await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await watching
        return await task
    finally:
        task.cancel()
        watching.cancel()
        await asyncio.gather(task, watching, return_exceptions=True)


async def cancel_on_signals(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; SIGTERM and SIGHUP cancel it, as Ctrl-C does."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    return await task
