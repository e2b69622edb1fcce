"""Waits while the server is away: a restart, a lost connection or a proxy without a server is no failure."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from mindprint import ApiError, MindprintError
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.settings import Settings


def absence_wait_s(tries: int, first_s: float, max_s: float, jitter: float) -> float:
    """Return the seconds to wait after so many calls without an answer: doubling, bounded, and spread by jitter.

    Args:
        tries: Calls in a row, at least 1.
        first_s: Wait after the first one.
        max_s: Longest wait.
        jitter: From 0 (half of the wait) to 1 (all of it).
    """
    return min(first_s * 2.0 ** min(tries - 1, 30), max(first_s, max_s)) * (1 + jitter) / 2


class ServerAbsence:
    """Tells one thread how long to wait for a server that is away.

    Args:
        settings: First and longest wait, and how long the server may be away.
        on_event: Called with an event when the absence begins, goes on and ends.
        clock: Returns seconds; tests replace it.
    """

    def __init__(
        self, settings: Settings, on_event: Callable[..., None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._on_event, self._clock = settings, on_event, clock
        self._since: float | None = None
        self._tries = 0

    def record(self, error: MindprintError) -> float:
        """Record a call that the server did not answer.

        Returns:
            Seconds until the next try.

        Raises:
            TrainerError: The server is away for longer than `max_absence_s`.
        """
        now, settings = self._clock(), self._settings
        self._since = now if self._since is None else self._since
        self._tries += 1
        away_s = now - self._since
        if settings.max_absence_s is not None and away_s > settings.max_absence_s:
            raise TrainerError(
                f"the server was away for {away_s:.0f} s ({error}): start it, then the trainer again, "
                "or raise MINDPRINT_TRAIN_MAX_ABSENCE_S"
            ) from error
        wait_s = absence_wait_s(self._tries, settings.poll_s, settings.absence_max_wait_s, random.random())
        if isinstance(error, ApiError) and error.retry_after is not None:
            wait_s = max(wait_s, min(error.retry_after, settings.absence_max_wait_s))
        self._on_event(
            "the server is away: waiting for it",
            why=str(error),
            away_s=round(away_s),
            next_try_s=round(wait_s, 1),
        )
        return wait_s

    def end(self) -> None:
        """Record that the server answered."""
        if self._since is not None:
            self._on_event("the server is back", away_s=round(self._clock() - self._since))
        self._since, self._tries = None, 0
