"""Notice that a local trainer stands still: for the demo and the evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVER_WORKS = ("uploaded", "check:")
"""How the trainer's events begin while it follows a publication. The server's checks may take hours."""
MAX_CHECK_S = 86_400.0
"""Seconds of such an event, after which something hangs: a check of hours is no fault, one of a day is."""


@dataclass
class Progress:
    """Notices that a stage stands still.

    Attributes:
        timeout_s: Seconds without progress after which it does.
        clock: Returns seconds; tests replace it.
    """

    timeout_s: float
    clock: Callable[[], float] = time.monotonic
    seen: object = None
    moved: float = 0.0

    def __post_init__(self) -> None:
        self.moved = self.clock()

    def note(self, seen: object) -> None:
        """Note what is seen of the stage now. Something else than before is progress."""
        if seen != self.seen:
            self.seen, self.moved = seen, self.clock()

    def is_stalled(self, doing: str) -> bool:
        """Return whether nothing moved for too long: `timeout_s`, or `MAX_CHECK_S` while the server checks a version.

        Args:
            doing: The trainer's last event.
        """
        return self.clock() - self.moved > self._bound_s(doing)

    def explain(self, doing: str, trainer_log: Path, server_log: Path) -> str:
        """Say what stands still, and which log has the cause.

        Args:
            doing: The trainer's last event.
            trainer_log: Log of the trainer.
            server_log: Log of the server.
        """
        log = server_log if "server" in doing or doing.startswith(SERVER_WORKS) else trainer_log
        last = doing or "the trainer starts"
        return f"no progress for {self._bound_s(doing):.0f} s (last: {last}): the cause is in {log}"

    def _bound_s(self, doing: str) -> float:
        return max(self.timeout_s, MAX_CHECK_S) if doing.startswith(SERVER_WORKS) else self.timeout_s
