"""Leases: a trainer's timed claim on the traces of one adapter, from the claim on.

Who holds what is decided by rows, never by memory. A lease row is locked before it is judged, so that of a heartbeat,
an upload and a sweep at once only one has its way. A lease on a user's adapter marks its traces as leased; one on a
cohort's only lists them, for a trace serves its user's adapter and the cohort's independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Update, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Lease, LeaseState, LoraLimits
from mindprint_server.store.exceptions import LeaseLost, NotFound
from mindprint_server.store.states import after_bad_end, why_lost
from mindprint_server.store.tables import leases, traces


async def sweep(db: AsyncConnection, max_attempts: int, now: datetime) -> None:
    """Ends the leases that ran out. One that is locked is just being judged for its holder: leave it."""
    out = select(leases.c.id).where(leases.c.state == "active", leases.c.deadline <= now)
    ids = (await db.scalars(out.with_for_update(skip_locked=True))).all()
    for id in ids:
        await end(db, id, "expired")
        await put_back(db, id, max_attempts)


async def heartbeat(db: AsyncConnection, id: str, ttl_s: float, now: datetime) -> Lease:
    await held(db, id, now)
    await db.execute(update(leases).where(leases.c.id == id).values(deadline=now + timedelta(seconds=ttl_s)))
    return await get(db, id)


async def release(db: AsyncConnection, id: str, now: datetime) -> Lease:
    """Gives the traces back as they were. Releasing twice is releasing once."""
    if (await locked(db, id))["state"] != "released":
        await held(db, id, now)
        await end(db, id, "released")
        await db.execute(_leased(id).values(state="waiting", lease_id=None))
    return await get(db, id)


async def release_adapter(db: AsyncConnection, key: str) -> None:
    """Ends the active lease of an adapter, if there is one, as its holder would."""
    active = select(leases.c.id).where(leases.c.adapter == key, leases.c.state == "active")
    for id in (await db.scalars(active)).all():
        if (await locked(db, id))["state"] == "active":
            await end(db, id, "released")
            await db.execute(_leased(id).values(state="waiting", lease_id=None))


ByUser = Mapping[str, Sequence[str]]


async def note_samples(db: AsyncConnection, id: str, fast: ByUser, rejected: ByUser, now: datetime) -> None:
    await held(db, id, now)
    noted = {
        name: {user_id: list(ids) for user_id, ids in by_user.items()}
        for name, by_user in (("fast", fast), ("rejected", rejected))
    }
    await db.execute(update(leases).where(leases.c.id == id).values(**noted))


async def get(db: AsyncConnection, id: str) -> Lease:
    row = (await db.execute(select(leases).where(leases.c.id == id))).mappings().one_or_none()
    if row is None:
        raise NotFound("lease", id)
    # What the server knows and the store does not: the base model, and what the engine can load.
    return Lease.model_validate(dict(row) | {"base_digest": "", "limits": LoraLimits(max_rank=0, target_modules=[])})


async def locked(db: AsyncConnection, id: str) -> RowMapping:
    """The lease's row, which nobody else changes until this transaction ends."""
    query = select(leases).where(leases.c.id == id).with_for_update(key_share=True)
    row = (await db.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("lease", id)
    return row


async def held(db: AsyncConnection, id: str, now: datetime) -> RowMapping:
    """The row, locked, of a lease that holds its traces; LeaseLost if it does not."""
    row = await locked(db, id)
    if why := why_lost(row["state"], row["deadline"], now):
        raise LeaseLost(id, why)
    return row


async def end(db: AsyncConnection, id: str, state: LeaseState, version: int | None = None) -> None:
    await db.execute(update(leases).where(leases.c.id == id).values(state=state, version=version))


async def train(db: AsyncConnection, id: str, version: int) -> None:
    """The lease's traces are in `version`."""
    await db.execute(_leased(id).values(state="trained", version=version))


async def put_back(db: AsyncConnection, id: str, max_attempts: int) -> None:
    """The lease ended badly: its traces wait again, or are dead after `max_attempts`."""
    tried = select(traces.c.attempts).where(traces.c.lease_id == id, traces.c.state == "leased").distinct()
    for attempts in (await db.scalars(tried)).all():
        state, after = after_bad_end(attempts, max_attempts)
        same = _leased(id).where(traces.c.attempts == attempts)
        await db.execute(same.values(state=state, attempts=after, lease_id=None))


def _leased(id: str) -> Update:
    return update(traces).where(traces.c.lease_id == id, traces.c.state == "leased")
