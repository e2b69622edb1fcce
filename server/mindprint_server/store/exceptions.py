"""What the store refuses. Each error knows its code, and its message says what to do."""

from __future__ import annotations

from mindprint.types.keys import VersionRef
from mindprint_server.exceptions import Busy, Conflict, LimitExceeded, NotFound, StorageFull

HINTS = {
    "user": "send engagements to POST /v1/users/{id}/engagements to create one",
    "engagement": "GET /v1/users/{id}/engagements lists the user's",
    "profile": "POST /v1/users/{id}/profile writes one",
    "trace": "GET /v1/traces lists them",
    "batch": "GET /v1/batches lists them",
    "lease": "POST /v1/leases claims one",
    "adapter": "GET /v1/adapters lists them",
    "version": "GET /v1/adapters/{key} lists the adapter's",
    "key": "GET /v1/keys lists them",
    "erasure": "GET /v1/erasures lists them",
    "publication": "POST /v1/leases/{id}/complete makes one",
    "cohort": "GET /v1/cohorts lists them, PUT /v1/cohorts/{name} creates one",
}
"""What to do if a record of this kind does not exist."""


class StoreError(Exception):
    """A call that the store refuses. Nothing of it has been written.

    This class itself is raised only if the database cannot be opened.
    """


class RecordNotFound(NotFound, StoreError):
    """There is no record of this kind with this id.

    Args:
        kind: `user`, `trace`, `version` and so on; its first word begins the code.
        id: The id that was asked for.
        param: The field of the request that named it.
        hint: What to do; None takes that of the kind.
    """

    def __init__(self, kind: str, id: str, *, param: str | None = None, hint: str | None = None) -> None:
        hint = hint or HINTS.get(kind)
        message = f"there is no {kind} {id!r}"
        super().__init__(f"{kind.split()[0]}_not_found", f"{message}: {hint}" if hint else message, param=param)
        self.kind = kind
        self.id = id


class EngagementConflict(Conflict, StoreError):
    """The engagement id is known with other content."""

    def __init__(self, id: str) -> None:
        super().__init__(
            "engagement_conflict",
            f"engagement {id!r} is stored with other content: send it unchanged, or under a new id; "
            "nothing of this request was stored",
            param="engagements",
        )


class IdempotencyConflict(Conflict, StoreError):
    """The idempotency key is known with another request."""

    def __init__(self, key: str) -> None:
        super().__init__(
            "idempotency_conflict",
            f"idempotency key {key!r} was sent with another request: use a new key",
            param="idempotency_key",
        )


class QueueFull(LimitExceeded, StoreError):
    """The maximum number of batches is queued or running."""

    def __init__(self, max_open: int) -> None:
        super().__init__(
            "batch_queue_full", f"{max_open} batches are queued or running already: try again when one has ended"
        )


class ServerQueueFull(LimitExceeded, StoreError):
    """The maximum number of batches of all tenants is queued or running."""

    def __init__(self, max_open: int) -> None:
        super().__init__(
            "server_queue_full",
            f"{max_open} batches of all tenants are queued or running already: try again when one has ended, "
            "or raise max_open_batches_total",
        )


class BacklogFull(LimitExceeded, StoreError):
    """More accepted traces would wait for one adapter than the limit allows."""

    def __init__(self, key: str, waiting: int, max_waiting: int) -> None:
        super().__init__(
            "backlog_full",
            f"{waiting} accepted traces wait for {key}, of at most {max_waiting}: "
            "send fewer, or send them again when some are trained",
        )


class AdapterLeased(Conflict, StoreError):
    """An adapter has an active lease, so that no other version can be published."""

    def __init__(self, key: str, owner: str) -> None:
        super().__init__(
            "adapter_leased",
            f"{key} is being trained or imported by {owner!r}: try again when that has ended, "
            "or release its lease if nothing is uploaded under it",
        )


class LeaseLost(Conflict, StoreError):
    """The lease no longer holds its traces. Work that was done under it does not count."""

    def __init__(self, id: str, why: str) -> None:
        super().__init__("lease_lost", f"lease {id} is lost: {why}: drop the work and claim again with POST /v1/leases")


class PublicationConflict(Conflict, StoreError):
    """The lease has a publication of other weights.

    Args:
        id: The lease.
        digest: Of the weights that were uploaded first.
    """

    def __init__(self, id: str, digest: str) -> None:
        super().__init__(
            "publication_conflict",
            f"other weights ({digest[:23]}…) were uploaded for lease {id}: claim again with POST /v1/leases",
        )


class LeaseRevoked(LeaseLost):
    """An erasure took the lease: what was trained under it learned from data that is gone.

    Args:
        id: The lease.
        erasure_id: The erasure.
    """

    def __init__(self, id: str, erasure_id: str) -> None:
        Conflict.__init__(
            self,
            "lease_revoked",
            f"lease {id} is revoked by erasure {erasure_id}, which removed some of its data: "
            "delete all that was downloaded and trained under it, and claim again with POST /v1/leases",
        )


class UserBeingErased(Conflict, StoreError):
    """The user's data is being erased, or was erased while this request was worked on."""

    def __init__(self, user_id: str) -> None:
        super().__init__(
            "user_being_erased",
            f"data of user {user_id!r} is being erased: send it again once GET /v1/erasures shows that it is done",
        )


class RowsExpiring(Busy, StoreError):
    """The server is removing the user's rows that are older than it may keep them. It ends by itself."""

    def __init__(self, user_id: str) -> None:
        super().__init__(
            "rows_expiring", f"rows of user {user_id!r} that are too old are being removed: retry in a moment"
        )


class StoreBusy(Busy, StoreError):
    """The database was not free, or not there. The same call may succeed in a moment.

    Args:
        why: What kept it from answering.
        what: What could not be done.
        is_outcome_unknown: Whether the connection was lost at a commit, which may have been done.
    """

    def __init__(
        self, why: str, what: str = "the database cannot answer now", *, is_outcome_unknown: bool = False
    ) -> None:
        cure = "read what is stored now before you send it again" if is_outcome_unknown else "retry in a moment"
        super().__init__("store_busy", f"{what} ({why}): {cure}")
        self.why = why
        self.is_outcome_unknown = is_outcome_unknown


class StoreFull(StorageFull, StoreError):
    """The disk of the database is full."""

    def __init__(self) -> None:
        super().__init__("storage_full", "the disk of the database is full: free some space on it, then try again")


class StoreFailed(StoreError):
    """The database refused a statement. This is a fault of the server or of the database.

    Args:
        why: The kind of the error. It holds no SQL and nothing that a user sent.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"the database failed: {why}")
        self.why = why


class NothingToRollBack(Conflict, StoreError):
    """No earlier version of the adapter passed its gate."""

    def __init__(self, key: str) -> None:
        super().__init__(
            "nothing_to_roll_back",
            f"adapter {key!r} has no earlier version that passed its gate: "
            "promote a version by number, or null for the base",
        )


class FilesGone(Conflict, StoreError):
    """The version's files were removed to save space: it cannot answer requests, and training cannot start from it."""

    def __init__(self, key: str, version: int) -> None:
        super().__init__(
            "version_files_gone",
            f"the files of {VersionRef.of(key, version)} are gone: choose a newer version, or one that is pinned",
        )


class VersionRefused(Conflict, StoreError):
    """A refused version answers only when a person promotes it by name."""

    def __init__(self, key: str, version: int) -> None:
        super().__init__(
            "version_refused", f"{VersionRef.of(key, version)} was refused: promote it by number to use it anyway"
        )


class AlreadyLive(Conflict, StoreError):
    """A version that answers every request cannot be the canary that answers a share."""

    def __init__(self, key: str, version: int) -> None:
        super().__init__(
            "version_live",
            f"{VersionRef.of(key, version)} is live: make another version live first, or choose another as the canary",
        )


class EveryoneStays(Conflict, StoreError):
    """The cohort `everyone` cannot be joined, left or deleted."""

    def __init__(self) -> None:
        super().__init__(
            "everyone_stays",
            "cohort 'everyone' cannot be edited, it holds all users who are in no other cohort: "
            "add users to another cohort, or remove them from their cohort",
        )
