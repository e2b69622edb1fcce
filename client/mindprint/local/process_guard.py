"""Kill every process that carries a run's mark once the run's own process has ended.

The end of that process closes the standard input of this one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

import psutil

MARK = "MINDPRINT_DEMO_RUN"
"""The environment variable that all of a run's processes inherit."""


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes that carry `mark`, without this one."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended by now, or another user's
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                processes.append(process)
    return processes


def of_sessions(sessions: set[int]) -> list[psutil.Process]:
    """Return the running processes of these sessions, without this one.

    A process that sets its title, as vLLM's do, overwrites its environment and so its mark. It keeps the session of the
    marked process that started it. psutil does not know sessions, so this function reads them.
    """
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_ours = process.pid != os.getpid() and os.getsid(process.pid) in sessions
            # A zombie is dead already; it stays until its parent waits for it.
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def sweep(mark: str, *, attempts: int = 50) -> None:
    """Kill all processes that carry `mark` and all of their sessions.

    Repeats until none is left, because a process that is being killed may just have started another.

    Args:
        mark: Value of the environment variable `MARK`.
        attempts: Rounds at most, 50 ms apart.
    """
    own, sessions = os.getsid(0), set[int]()
    for _ in range(attempts):
        ours = marked(mark)
        for process in ours:
            with contextlib.suppress(OSError):
                sessions.add(os.getsid(process.pid))
        left = {*ours, *of_sessions(sessions - {own})}
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # Not psutil.wait_procs: it would take the exit codes of children from `subprocess`.
        time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep(sys.argv[1])
