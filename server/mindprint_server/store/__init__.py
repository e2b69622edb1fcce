"""Everything that is kept in the database: one repository for each entity, reached through `Store`."""

from __future__ import annotations

from mindprint_server.store.erasure_plan import ErasurePlan, ErasureTarget
from mindprint_server.store.exceptions import (
    AdapterLeased,
    AlreadyLive,
    BacklogFull,
    EngagementConflict,
    EveryoneStays,
    FilesGone,
    IdempotencyConflict,
    LeaseLost,
    LeaseRevoked,
    NothingToRollBack,
    PublicationConflict,
    QueueFull,
    RecordNotFound,
    StoreBusy,
    StoreError,
    StoreFailed,
    StoreFull,
    UserBeingErased,
    VersionRefused,
)
from mindprint_server.store.holdout import Holdout
from mindprint_server.store.ids import new_id
from mindprint_server.store.lease_selection import ClaimPolicy
from mindprint_server.store.live_versions import Pointers
from mindprint_server.store.publication_jobs import OpenPublication, PublicationRecord
from mindprint_server.store.replays import Replay
from mindprint_server.store.store import Store
from mindprint_server.store.traces import Gain
from mindprint_server.store.urls import sqlite_file
from mindprint_server.store.versions import VersionRecord

__all__ = [
    "AdapterLeased",
    "AlreadyLive",
    "BacklogFull",
    "ClaimPolicy",
    "EngagementConflict",
    "ErasurePlan",
    "ErasureTarget",
    "EveryoneStays",
    "FilesGone",
    "Gain",
    "Holdout",
    "IdempotencyConflict",
    "LeaseLost",
    "LeaseRevoked",
    "NothingToRollBack",
    "OpenPublication",
    "Pointers",
    "PublicationConflict",
    "PublicationRecord",
    "QueueFull",
    "RecordNotFound",
    "Replay",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreFailed",
    "StoreFull",
    "UserBeingErased",
    "VersionRecord",
    "VersionRefused",
    "new_id",
    "sqlite_file",
]
