"""Runs background tasks: an error is logged, counted and retried, and what keeps failing is named in `/readyz`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from mindprint_server.exceptions import Busy, ServerError, StorageFull
from mindprint_server.settings import OperationSettings

log = structlog.get_logger(__name__)
Result = TypeVar("Result")
PASSING = (Busy, StorageFull)
"""Errors that pass by themselves: the same call may succeed later."""


@dataclass
class Failure:
    """Work that failed and has not succeeded since.

    Attributes:
        task: Name of the work.
        since: Time of the first failure on the supervisor's clock, in seconds.
        why: What the last failure was.
        tries: Failures in a row.
        began: Time at which the present try began; None while it waits for the next one.
        longest_s: Duration of the longest try that failed, in seconds, but for the first one.
        affects_readiness: Whether the server is not ready while it goes on.
    """

    task: str
    since: float
    why: str
    affects_readiness: bool = True
    tries: int = 0
    began: float | None = None
    longest_s: float = 0.0


def retry_delay_s(tries: int, *, min_s: float, max_s: float, jitter: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubling, bounded, and spread by jitter.

    Args:
        tries: Failures in a row, at least 1.
        min_s: The wait after the first one, in seconds.
        max_s: The longest wait in seconds.
        jitter: From 0 (half of the wait) to 1 (all of it).
    """
    doubled = min_s * 2.0 ** min(tries - 1, 30)
    return float(min(doubled, max_s) * (1 + jitter) / 2)


def reason_of(error: BaseException) -> str:
    """Return the name of an error for metrics: its code, or its class; of a group, that of its first error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.code if isinstance(error, ServerError) else type(error).__name__


def describe(error: BaseException) -> str:
    """Return what an error says. The text of an unexpected one stays in the log's traceback: it may hold anything."""
    return error.message if isinstance(error, ServerError) else reason_of(error)


class Supervisor:
    """Starts background tasks, and keeps account of those that fail.

    Args:
        settings: Waits between tries, and how long work may fail.
        count: Counts a failure: gets the name of the task and the reason.
        clock: Returns seconds; tests replace it.
    """

    def __init__(
        self,
        settings: OperationSettings,
        count: Callable[[str, str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._count = count
        self._clock = clock
        self._failures: dict[object, Failure] = {}

    def start_loop(
        self, task: str, step: Callable[[], Awaitable[bool]], pause: Callable[[], Awaitable[Any]]
    ) -> asyncio.Task[None]:
        """Run `step` and `pause` in turn until `step` returns False. A step that raises is tried again.

        Args:
            task: Name for logs, metrics and `/readyz`.
            step: Does some work. Returns whether to go on.
            pause: Waits for more work.
        """

        async def run() -> None:
            while await self.retry(task, step, passing=(Exception,)):
                await self.retry(task, pause, passing=(Exception,))

        return asyncio.create_task(run(), name=task)

    def start_job(
        self, task: str, work: Callable[[], Awaitable[Result]], *, affects_readiness: bool = True
    ) -> asyncio.Task[Result]:
        """Run `work` until it returns once.

        Args:
            task: Name for logs, metrics and `/readyz`.
            work: The work; it is done again from its beginning.
            affects_readiness: Whether `/readyz` names it while it fails. False for work of one user among many.
        """
        retrying = self.retry(task, work, passing=(Exception,), affects_readiness=affects_readiness)
        return asyncio.create_task(retrying, name=task)

    async def retry(
        self,
        task: str,
        work: Callable[[], Awaitable[Result]],
        *,
        passing: tuple[type[Exception], ...] = PASSING,
        affects_readiness: bool = True,
    ) -> Result:
        """Do `work` until it succeeds, and return its result.

        Args:
            task: Name for logs, metrics and `/readyz`.
            work: The work; it is done again from its beginning.
            passing: Errors after which it is done again. Any other one is raised.
            affects_readiness: Whether `/readyz` names it while it fails.
        """
        failure = Failure(task, since=0, why="", affects_readiness=affects_readiness)
        try:
            while True:
                failure.began = self._clock()
                try:
                    return await work()
                except passing as error:
                    delay_s = self._note(failure, error)
                await asyncio.sleep(delay_s)
        finally:
            self._failures.pop(id(failure), None)

    def report(self, task: str, error: Exception) -> None:
        """Log and count a failure of work that is not done again here."""
        self._count(task, reason_of(error))
        unexpected = None if isinstance(error, ServerError) else error
        log.error("background work failed", task=task, kind=reason_of(error), why=describe(error), exc_info=unexpected)

    def note_success(self, task: str) -> None:
        """Forget the failures of a task whose step goes on for long and works again."""
        for key, failure in list(self._failures.items()):
            if failure.task == task:
                failure.tries = 0
                del self._failures[key]

    def failing(self) -> dict[str, str]:
        """Return why, by name, for the tasks that have failed for longer than `max_failing_s`.

        A try is not named while it runs for longer than this, and for longer than each retry that failed: it has passed
        the point of failure. Some work takes minutes.
        """
        return {failure.task: failure.why for failure in self._failures.values() if self._is_failing(failure)}

    def _is_failing(self, failure: Failure) -> bool:
        now, bound_s = self._clock(), self._settings.max_failing_s
        runs_s = 0.0 if failure.began is None else now - failure.began
        is_too_long = now - failure.since >= bound_s and runs_s <= max(bound_s, failure.longest_s)
        return failure.affects_readiness and is_too_long

    def _note(self, failure: Failure, error: Exception) -> float:
        """Log and count a failure; return the seconds until the next try."""
        first = not failure.tries
        failure.tries += 1
        failure.why = describe(error)
        now = self._clock()
        if first:
            failure.since, failure.longest_s = now, 0.0
            self._failures[id(failure)] = failure
        elif failure.began is not None:
            failure.longest_s = max(failure.longest_s, now - failure.began)
        failure.began = None
        settings = self._settings
        delay_s = retry_delay_s(
            failure.tries, min_s=settings.retry_min_s, max_s=settings.retry_max_s, jitter=random.random()
        )
        self._count(failure.task, reason_of(error))
        # Many items fail at once when the database is away: the one that failed first speaks for all of its name.
        if next(one for one in self._failures.values() if one.task == failure.task) is failure:
            unexpected = error if first and not isinstance(error, ServerError) else None
            log.warning(
                "background work failed: it is tried again",
                task=failure.task,
                kind=reason_of(error),
                why=failure.why,
                tries=failure.tries,
                retry_s=round(delay_s, 2),
                exc_info=unexpected,
            )
        return delay_s
