"""Decides which failed calls are tried again, and when the trainer gives up."""

from __future__ import annotations

from collections.abc import Callable

from mindprint import ApiError, MindprintError
from mindprint_trainer.errors import TrainerError

TRANSIENT_STATUSES = (408, 429)
"""HTTP statuses below 500 after which a repeated call may succeed."""


class FailureCounter:
    """Counts failures in a row, and gives up after `max_failures`."""

    def __init__(self, max_failures: int, on_event: Callable[..., None]) -> None:
        self._max_failures, self._on_event = max_failures, on_event
        self._failures = 0

    def reset(self) -> None:
        """Set the count to zero, after a success."""
        self._failures = 0

    def record_call(self, error: MindprintError) -> None:
        """Record a failed call that may succeed later.

        Raises:
            TrainerError: The call cannot succeed later, or there were too many failures in a row.
        """
        if isinstance(error, ApiError) and error.status < 500 and error.status not in TRANSIENT_STATUSES:
            raise TrainerError(str(error)) from error
        self.record(error)

    def record(self, error: Exception) -> None:
        """Record a failure after which another try may succeed.

        Raises:
            TrainerError: There were too many failures in a row.
        """
        self._failures += 1
        if self._failures >= self._max_failures:
            raise TrainerError(str(error)) from error
        self._on_event("the server failed a call", error=str(error), failures=self._failures)
