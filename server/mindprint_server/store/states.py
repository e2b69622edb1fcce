"""Who may do what when: the states of leases and versions, as pure functions.

A trace goes waiting -> leased -> trained. A lease that ends badly (it ran out, or its version was refused) sends its
traces back to waiting with one more attempt, or to dead after the last; a released lease sends them back unchanged.
"""

from __future__ import annotations

from datetime import datetime
from math import floor

from mindprint.types import BatchState, LeaseState, TraceState, VersionState

OPEN: tuple[BatchState, ...] = ("queued", "running")
"""States of a batch in which there is still work to do."""


def why_lost(state: LeaseState, deadline: datetime, now: datetime) -> str | None:
    """Why a lease no longer holds its traces, or None if it does. At its deadline it is over, swept up or not."""
    if state != "active":
        return f"it is {state}"
    if now >= deadline:
        return f"it ran out at {deadline.isoformat()}"
    return None


def after_bad_end(attempts: int, max_attempts: int) -> tuple[TraceState, int]:
    """State and attempts of a trace whose lease ended badly, from its attempts before."""
    return ("dead" if attempts + 1 >= max_attempts else "waiting"), attempts + 1


def version_state(version: int, live: int | None, refused: bool, candidate: int | None = None) -> VersionState:
    """The pointers are the only truth about what answers; a refused version stays refused when it is taken off."""
    if version == live:
        return "live"
    if version == candidate:
        return "candidate"
    return "refused" if refused else "standby"


def held_out_count(engagements: int, share: float, min_engagements: int, max_engagements: int) -> int:
    """Return how many of a user's newest engagements are held out. `holdout` computes the same in SQL."""
    return 0 if engagements < min_engagements else min(max_engagements, floor(share * engagements))
