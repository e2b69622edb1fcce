"""Exceptions that end a training. Each message is one line and says what to do."""

from __future__ import annotations


class TrainerError(Exception):
    """The trainer process cannot continue."""


class BaseMismatch(TrainerError):
    """Trainer and server hold different base models."""


class CannotTrain(TrainerError):
    """A lease holds nothing that can be trained on under these settings."""


class NotFinite(TrainerError):
    """The loss or its gradient became NaN or infinite."""


LEASE_LOST = "the lease was lost: nothing uploaded"
LEASE_REVOKED = "the lease was revoked, because an erasure removed some of its data: nothing uploaded"


class LeaseEnded(Exception):
    """The server has ended the lease. What was trained under it cannot be uploaded.

    Args:
        why: What the trainer tells of it.
    """

    def __init__(self, why: str = LEASE_LOST) -> None:
        super().__init__(why)


class Stopped(BaseException):
    """The process was asked to stop by a signal.

    Like KeyboardInterrupt it is not an Exception, so that no handler of failures catches it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
