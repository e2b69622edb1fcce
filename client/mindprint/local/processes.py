"""The demo's child processes: each in a session of its own, all of them gone when the demo is, however it ends.

Every process that a child starts inherits a mark in its environment. Stopping sweeps up whatever carries the mark,
so engine processes that outlive their parent do not stay. A guard process does the same when the demo itself dies.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from mindprint.local.process_guard import MARK, sweep

GRACE_S = 5.0
"""From the request to stop until the kill."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\S+ \[\w+\s*\] (?P<event>.*)$")
_LOGGER = re.compile(r"\s*\[[\w.]+\]\s*")


class ProcessDied(Exception):
    """A child ended when it should not have. The message holds the end of its log."""


class Child:
    """One started process with its log file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """What it ended with; None while it runs."""
        return self._process.poll()

    def running(self) -> bool:
        return self._process.poll() is None

    def check(self) -> None:
        """Raises ProcessDied if it has ended."""
        if not self.running():
            tail = "\n".join(self.tail(12))
            raise ProcessDied(f"the {self.name} ended with code {self._process.returncode} (log: {self.log})\n{tail}")

    def kill(self) -> None:
        """`kill -9`, as a power cut would."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int) -> list[str]:
        """The last lines of the log."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 16_384))
            text = stream.read().decode(errors="replace")
        return _ANSI.sub("", text).replace("\r", "\n").strip().splitlines()[-lines:]

    def doing(self) -> str:
        """The event that the process logged last, for a progress line; empty if there is none yet."""
        for line in reversed(self.tail(50)):
            if found := _LOG_LINE.match(line):
                return " ".join(_LOGGER.sub(" ", found["event"], count=1).split())
        return ""

    def ask_to_stop(self) -> None:
        if self.running():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Until it ends or `deadline` (monotonic seconds) comes, then kills its group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class Processes:
    """Starts children and, on leaving the `with` block, stops them and all that they started."""

    def __init__(self, folder: Path, *, grace_s: float = GRACE_S) -> None:
        self.folder = folder
        self._grace_s = grace_s
        self._mark = uuid.uuid4().hex
        self._children: list[Child] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # The guard reads from a pipe that only this process holds open for writing: its end is this process's end.
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
        """Run `python -m <command>` with this environment added; its output goes to `<folder>/<name>.log`."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={"HF_HUB_OFFLINE": "1", **os.environ, **environment, MARK: self._mark},
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Ask all to stop, wait a little, then kill what is left. Takes `grace_s` at most, and a moment."""
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
    """A TCP port on the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
