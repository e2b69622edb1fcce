"""All that lasts: users, engagements, profiles, batches, traces (the queue), leases, adapters and their versions."""

from __future__ import annotations

from .errors import (
    Busy,
    EngagementConflict,
    IdempotencyConflict,
    LeaseLost,
    NotFound,
    NothingToRollBack,
    QueueFull,
    StoreError,
)
from .ids import new_id
from .store import Store

__all__ = [
    "Busy",
    "EngagementConflict",
    "IdempotencyConflict",
    "LeaseLost",
    "NotFound",
    "NothingToRollBack",
    "QueueFull",
    "Store",
    "StoreError",
    "new_id",
]
