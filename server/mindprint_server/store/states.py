"""The states of traces, leases and versions, as pure functions.

A trace goes from waiting to leased to trained. A lease fails if it expires or its version is refused. Then its traces
wait again with one more attempt, or are dead letters after the last one. The traces of a released lease wait
again with unchanged attempts.
"""

from __future__ import annotations

from datetime import datetime
from math import floor

from mindprint.types import BatchState, LeaseState, PublicationState, TraceState, VersionState

OPEN_STATES: tuple[BatchState, ...] = ("queued", "running")
"""States of a batch that has not ended."""
OPEN_PUBLICATION_STATES: tuple[PublicationState, ...] = ("stored", "loading", "parity_check", "gate")
"""States of a publication that has not ended."""


def why_lost(state: LeaseState, deadline: datetime | None, now: datetime) -> str | None:
    """Return why a lease no longer holds its traces, or None if it does.

    A lease ends at its deadline, even if no sweep has marked it as expired yet. Without a deadline its state decides.
    """
    if state != "active":
        return f"it is {state}"
    if deadline is not None and now >= deadline:
        return f"it ran out at {deadline.isoformat()}"
    return None


def after_bad_end(attempts: int, max_attempts: int) -> tuple[TraceState, int]:
    """Return the new state and attempts of a trace whose lease failed."""
    return ("dead_letter" if attempts + 1 >= max_attempts else "waiting"), attempts + 1


def version_state(version: int, live: int | None, refused: bool, canary: int | None = None) -> VersionState:
    """Return the state of a version: live or canary if a pointer names it, else refused or standby.

    Args:
        version: Number of the version.
        live: Number of the adapter's live version.
        refused: Whether the version was refused. A refused version that was made live is refused again afterwards.
        canary: Number of the adapter's canary.
    """
    if version == live:
        return "live"
    if version == canary:
        return "canary"
    return "refused" if refused else "standby"


def held_out_count(engagements: int, share: float, min_engagements: int, max_engagements: int) -> int:
    """Return how many of a user's newest engagements are held out. `holdout` computes the same in SQL.

    Args:
        engagements: Number of the user's engagements.
        share: Share that is held out, rounded down.
        min_engagements: Users with fewer engagements have none held out.
        max_engagements: Maximum number that is held out.
    """
    return 0 if engagements < min_engagements else min(max_engagements, floor(share * engagements))
