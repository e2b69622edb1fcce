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


class BacklogFull(StoreError):
    """As many accepted traces wait for one adapter as may."""

    def __init__(self, key: str, waiting: int, most: int) -> None:
        super().__init__(
            f"{waiting} accepted traces wait for {key}, of at most {most}: send fewer, or again when some are trained"
        )
        self.key = key


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


class FilesGone(StoreError):
    """The version's files were removed to save space: it can no longer answer, nor can training begin with it."""

    def __init__(self, key: str, version: int) -> None:
        super().__init__(f"the files of {key}@{version} are gone: choose a newer version, or one that is pinned")
        self.key = key
        self.version = version


class VersionRefused(StoreError):
    """A refused version answers only when a person promotes it by name."""

    def __init__(self, key: str, version: int) -> None:
        super().__init__(f"{key}@{version} was refused: promote it by name if you mean it")
        self.key = key
        self.version = version


class AlreadyLive(StoreError):
    """A version that answers every request cannot be the candidate that answers a share."""

    def __init__(self, key: str, version: int) -> None:
        super().__init__(f"{key}@{version} is live: make another version live first, or release another as candidate")
        self.key = key
        self.version = version


class EveryoneStays(StoreError):
    """`everyone` is no cohort that is joined, left or deleted."""

    def __init__(self) -> None:
        super().__init__(
            "cohort 'everyone' holds all who are in no other: add users to another, or remove them from it"
        )
