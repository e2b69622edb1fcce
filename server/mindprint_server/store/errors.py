"""What the store refuses, as exceptions; each message says what is wrong in words a caller can act on."""

from __future__ import annotations


class StoreError(Exception):
    """Anything the store refuses. Nothing of the refused call has been written."""


class NotFound(StoreError):
    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"there is no {kind} {id!r}")
        self.kind = kind
        self.id = id


class EngagementConflict(StoreError):
    """The engagement id is known with other content."""

    def __init__(self, id: str) -> None:
        super().__init__(f"engagement {id!r} is stored with other content: send it unchanged, or under a new id")
        self.id = id


class IdempotencyConflict(StoreError):
    """The idempotency key is known with another request."""

    def __init__(self, key: str) -> None:
        super().__init__(f"idempotency key {key!r} came with another request before: use a new key")
        self.key = key


class QueueFull(StoreError):
    """As many batches are queued or running as may be."""

    def __init__(self, max_open: int) -> None:
        super().__init__(f"{max_open} batches are queued or running already: try again when one has ended")
        self.max_open = max_open


class LeaseLost(StoreError):
    """The lease no longer holds its traces; whatever was done under it does not count."""

    def __init__(self, id: str, why: str) -> None:
        super().__init__(f"lease {id} is lost: {why}")
        self.id = id
        self.why = why


class Busy(StoreError):
    """The database did not get to it in time. The same call may succeed in a moment."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the database is busy ({why}): try again")
        self.why = why


class NothingToRollBack(StoreError):
    def __init__(self, key: str) -> None:
        super().__init__(f"adapter {key!r} has no earlier version that passed its gate")
        self.key = key
