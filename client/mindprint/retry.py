"""Decide when a failed call is made again, and after how long."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mindprint.exceptions import UNKNOWN_CODE, ApiError, ConnectionFailed, MindprintError

if TYPE_CHECKING:
    from types import ModuleType

    from stamina import Attempt
    from stamina.instrumentation import RetryDetails, RetryHook


class Attempts(Protocol):
    """The attempts at one call. Each is a context manager that suppresses an error if another attempt follows."""

    def __iter__(self) -> Iterator[Attempt]: ...

    def __aiter__(self) -> AsyncIterator[Attempt]: ...


@dataclass(frozen=True, slots=True)
class Retries:
    """Bounds on repeating one call. Times are seconds."""

    attempts: int = 5
    timeout_s: float = 120.0
    """No new attempt starts later than this after the first one."""
    wait_initial_s: float = 0.25
    wait_max_s: float = 10.0
    jitter_s: float = 0.5
    retry_after_max_s: float = 60.0
    """If the server asks for a longer wait than this, there is no further attempt and the error is raised."""
    starting_s: float = 600.0
    """While the server says that it starts, calls wait for it up to this long, beside the other bounds. With one
    attempt they do not wait."""

    def run(self, *, repeatable: bool) -> Attempts:
        """Return the attempts at one call, to loop over: `for attempt in retries.run(...): with attempt: ...`.

        Args:
            repeatable: Whether making the call twice has the same effect as making it once.
        """
        import stamina  # here, because it adds 0.1 s to the import of this package

        _silence(stamina.instrumentation)
        return stamina.retry_context(
            on=_Failures(self, repeatable=repeatable).decide,
            attempts=None,  # both bounds begin anew once the server has started
            timeout=None,
            wait_initial=self.wait_initial_s,
            wait_max=self.wait_max_s,
            wait_jitter=self.jitter_s,
        )


NEVER = Retries(attempts=1)
STARTING = "engine_starting"
"""The code of a 503 of a server that starts."""
_STARTING_WAIT_S = 1.0
"""Seconds between two calls to a server that starts, at least."""


class _Failures:
    """Decides about the failures of one call, and counts them. Those while the server starts have their own bound."""

    def __init__(self, retries: Retries, *, repeatable: bool) -> None:
        self._retries = retries
        self._repeatable = repeatable
        self._failed = 0
        self._first = self._counted_from = time.monotonic()

    def decide(self, error: Exception) -> bool | float:
        """Return what `decide` does, and no once a bound is reached."""
        now, bounds = time.monotonic(), self._retries
        wait = decide(error, repeatable=self._repeatable, retries=bounds)
        if wait and is_starting(error) and bounds.attempts > 1 and bounds.starting_s > 0:
            self._failed, self._counted_from = 0, now
            return max(wait, _STARTING_WAIT_S) if now - self._first < bounds.starting_s else False
        self._failed += 1
        is_over = self._failed >= bounds.attempts or now - self._counted_from >= bounds.timeout_s
        return False if is_over else wait


def is_starting(error: BaseException) -> bool:
    """Return whether an error says that the server is starting, so that it did nothing yet."""
    return isinstance(error, ApiError) and error.status == 503 and error.code == STARTING


def _silence(instrumentation: ModuleType) -> None:
    """Keep stamina from logging the waits of these clients, as it does unless hooks are set; other callers stay heard.

    Args:
        instrumentation: `stamina.instrumentation`.
    """
    loggers = {
        factory.hook_factory.__module__
        for factory in (instrumentation.LoggingOnRetryHook, instrumentation.StructlogOnRetryHook)
    }
    hooks = instrumentation.get_on_retry_hooks()
    if any(hook.__module__ in loggers for hook in hooks):
        instrumentation.set_on_retry_hooks(
            [partial(_of_others, hook) if hook.__module__ in loggers else hook for hook in hooks]
        )


def _of_others(hook: RetryHook, details: RetryDetails) -> None:
    if not isinstance(details.caused_by, MindprintError):
        hook(details)


PASSING_STATUSES = (408, 429, 502, 503, 504, 507, *range(520, 525), 530)
"""Statuses after which the same call may succeed later: a proxy or a server that is restarted sends them too. Those
from 520 on are Cloudflare's for a server behind it that does not answer."""
UNDONE_STATUSES = (503, 507)
"""Statuses with which a server that sends Retry-After refuses a call before it did anything."""


def decide(error: Exception, *, repeatable: bool, retries: Retries) -> bool | float:
    """Return whether to try again after `error`: no, yes with the usual back-off, or yes after so many seconds.

    A call that is not repeatable is made again only if the server cannot have acted on it: the connection failed, the
    server refused the call before it did anything (429, or its own 503 or 507 with a Retry-After), or the server says
    `x-should-retry: true`. With `x-should-retry: false` no call is made again. A 503 of the server without either, such
    as `store_busy` after a lost commit, may stand for a write that was stored. So may any page of a proxy.

    Args:
        error: What the last attempt raised.
        repeatable: Whether making the call twice has the same effect as making it once.
        retries: The bounds.
    """
    if isinstance(error, ConnectionFailed):
        return repeatable or not error.sent
    if not isinstance(error, ApiError) or not _may_repeat(error, repeatable):
        return False
    if error.retry_after is None:
        return True
    if error.retry_after > retries.retry_after_max_s:
        return False
    # Only add jitter: clients that got the same Retry-After must not all call again at the same time.
    return error.retry_after + random.uniform(0, retries.jitter_s)


def _may_repeat(error: ApiError, repeatable: bool) -> bool:
    if error.should_retry is not None:
        return error.should_retry
    if error.status not in PASSING_STATUSES:
        return False
    is_servers = error.code != UNKNOWN_CODE
    is_undone = is_servers and error.status in UNDONE_STATUSES and error.retry_after is not None
    return repeatable or is_undone or error.status == 429


def is_absent(error: Exception) -> bool:
    """Return whether an error says that the server does not answer for now, and nothing about the call itself.

    A proxy without a server answers with 502, 503 or 504, and some with a 404 that is not in the server's form.
    """
    if isinstance(error, ConnectionFailed):
        return True
    if not isinstance(error, ApiError):
        return False
    if error.should_retry is not None:
        return error.should_retry
    return error.status in PASSING_STATUSES or (error.status == 404 and error.code == UNKNOWN_CODE)


def parse_should_retry(value: str | None) -> bool | None:
    """Return what an `x-should-retry` header says; None if it is absent or says neither true nor false."""
    return {"true": True, "false": False}.get((value or "").strip().lower())


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date; None if it is absent or malformed."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
