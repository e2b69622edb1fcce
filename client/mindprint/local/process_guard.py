"""Ends every process that carries a run's mark, once the run's own process is gone. Reads that from a closed pipe."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "MINDPRINT_DEMO_RUN"
"""The environment variable that all of a run's processes inherit."""


def marked(mark: str) -> list[int]:
    """Ids of the processes that carry `mark`, this one left out. Empty where there is no /proc."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone by now, or another user's
            if wanted in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def of_sessions(sessions: set[int]) -> list[int]:
    """Ids of the processes of these sessions. A process that sets its title, as vLLM's do, writes over its environment
    and with it over the mark; its session stays that of the marked process that started it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(entry.name)) in sessions and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def sweep(mark: str, *, attempts: int = 50) -> None:
    """Kill all that carry `mark` and all of their sessions, until none is left: what is being killed may just have
    started another."""
    own, sessions = os.getsid(0), set[int]()
    for _ in range(attempts):
        ours = marked(mark)
        for pid in ours:
            with contextlib.suppress(OSError):
                sessions.add(os.getsid(pid))
        left = {*ours, *of_sessions(sessions - {own})}
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep(sys.argv[1])
