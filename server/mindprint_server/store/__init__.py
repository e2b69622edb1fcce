"""All that lasts: users, engagements, profiles, batches, traces (the queue), leases, adapters and their versions."""

from __future__ import annotations

from .errors import (
    AlreadyLive,
    BacklogFull,
    Busy,
    EngagementConflict,
    EveryoneStays,
    FilesGone,
    IdempotencyConflict,
    LeaseLost,
    NotFound,
    NothingToRollBack,
    QueueFull,
    StoreError,
    VersionRefused,
)
from .gains import Gain
from .holdout import Holdout
from .ids import new_id
from .pointers import Pointers
from .replays import Replay
from .store import Store

__all__ = [
    "AlreadyLive",
    "BacklogFull",
    "Busy",
    "EngagementConflict",
    "EveryoneStays",
    "FilesGone",
    "Gain",
    "Holdout",
    "IdempotencyConflict",
    "LeaseLost",
    "NotFound",
    "NothingToRollBack",
    "Pointers",
    "QueueFull",
    "Replay",
    "Store",
    "StoreError",
    "VersionRefused",
    "new_id",
]
