"""Decides which failed calls are tried again, and when the trainer gives up."""

from __future__ import annotations

from collections.abc import Callable

from mindprint import ApiError, MindprintError
from mindprint.retry import is_absent
from mindprint_trainer.absence import ServerAbsence
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.settings import Settings


class FailureCounter:
    """Counts failures in a row, and gives up after `max_failures`. A server that is away is waited for instead.

    Args:
        settings: The bounds.
        on_event: Called with an event for each failure.
    """

    def __init__(self, settings: Settings, on_event: Callable[..., None]) -> None:
        self._settings, self._on_event = settings, on_event
        self._failures = 0
        self._absence = ServerAbsence(settings, on_event)

    def reset(self) -> None:
        """Set the count to zero, after a success."""
        self._failures = 0
        self.note_answer()

    def note_answer(self) -> None:
        """Record that the server answers, whatever it says."""
        self._absence.end()

    def record_call(self, error: MindprintError) -> float:
        """Record a failed call that may succeed later.

        Returns:
            Seconds to wait before the next call.

        Raises:
            TrainerError: The call cannot succeed later, there were too many failures in a row, or the server is away
                for too long.
        """
        if is_absent(error):
            return self._absence.record(error)
        self.note_answer()
        if isinstance(error, ApiError) and error.status < 500:
            raise TrainerError(str(error)) from error
        self.record(error)
        return self._settings.poll_s

    def record(self, error: Exception) -> None:
        """Record a failure after which another try may succeed.

        Raises:
            TrainerError: There were too many failures in a row.
        """
        self._failures += 1
        if self._failures >= self._settings.max_failures:
            raise TrainerError(str(error)) from error
        self._on_event("the server failed a call", error=str(error), failures=self._failures)
