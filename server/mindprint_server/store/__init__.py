"""Everything that is kept in the database: one repository for each entity, reached through `Store`."""

from __future__ import annotations

from mindprint_server.store.exceptions import (
    AlreadyLive,
    BacklogFull,
    EngagementConflict,
    EveryoneStays,
    FilesGone,
    IdempotencyConflict,
    LeaseLost,
    NothingToRollBack,
    QueueFull,
    RecordNotFound,
    StoreBusy,
    StoreError,
    StoreFailed,
    StoreFull,
    VersionRefused,
)
from mindprint_server.store.holdout import Holdout
from mindprint_server.store.ids import new_id
from mindprint_server.store.lease_selection import ClaimPolicy
from mindprint_server.store.live_versions import Pointers
from mindprint_server.store.replays import Replay
from mindprint_server.store.store import Store
from mindprint_server.store.traces import Gain
from mindprint_server.store.versions import VersionRecord

__all__ = [
    "AlreadyLive",
    "BacklogFull",
    "ClaimPolicy",
    "EngagementConflict",
    "EveryoneStays",
    "FilesGone",
    "Gain",
    "Holdout",
    "IdempotencyConflict",
    "LeaseLost",
    "NothingToRollBack",
    "Pointers",
    "QueueFull",
    "RecordNotFound",
    "Replay",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreFailed",
    "StoreFull",
    "VersionRecord",
    "VersionRefused",
    "new_id",
]
