"""What ends a training. Each message is one line."""

from __future__ import annotations


class TrainerError(Exception):
    """The process cannot go on; the message says what to do."""


class BaseMismatch(TrainerError):
    """Trainer and server hold different base models."""


class CannotTrain(TrainerError):
    """A lease holds nothing that can be trained on under these settings."""


class NotFinite(TrainerError):
    """The loss became NaN or infinite."""


class LeaseEnded(Exception):
    """The server no longer counts this lease as ours: what was trained under it is worthless."""


class Stopped(BaseException):
    """The process was asked to stop. Like KeyboardInterrupt, no failure of what it interrupts."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
