"""Leases: a trainer's timed claim on the waiting traces of one adapter.

Who holds what is decided by rows, never by memory. Claims go one by one, and a lease row is locked before it is judged,
so that of a heartbeat, an upload and a sweep at once only one has its way.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Update, func, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Lease, LeaseState, LoraLimits

from .db import alone
from .errors import LeaseLost, NotFound
from .ids import new_id
from .states import after_bad_end, why_lost
from .tables import leases, live_versions, traces

ACTIVE = select(leases.c.adapter).where(leases.c.state == "active")
"""Adapters that a trainer holds."""


async def claim(
    db: AsyncConnection,
    *,
    owner: str,
    adapter: str | None,
    ttl_s: float,
    min_traces: int,
    max_traces: int,
    max_attempts: int,
    now: datetime,
) -> Lease | None:
    await alone(db, "claims")  # they are few and short; side by side they would take each other's traces in shreds
    await _sweep(db, max_attempts, now)
    free = select(traces.c.adapter).where(traces.c.state == "waiting", traces.c.adapter.not_in(ACTIVE))
    if adapter is not None:
        free = free.where(traces.c.adapter == adapter)
    enough = free.group_by(traces.c.adapter).having(func.count() >= min_traces)
    key = await db.scalar(enough.order_by(func.count().desc(), traces.c.adapter).limit(1))
    if key is None:
        return None
    waiting = select(traces.c.id, traces.c.attempts).where(traces.c.state == "waiting", traces.c.adapter == key)
    rows = (await db.execute(waiting.order_by(traces.c.id).limit(max_traces))).all()
    id, trace_ids = new_id(), [row.id for row in rows]
    lease = {
        "id": id,
        "adapter": key,
        "owner": owner,
        "state": "active",
        "deadline": now + timedelta(seconds=ttl_s),
        "attempt": 1 + max(row.attempts for row in rows),
        "trace_ids": trace_ids,
        "parent": await db.scalar(select(live_versions.c.version).where(live_versions.c.adapter == key)),
        "created_at": now,
    }
    await db.execute(leases.insert(), lease)
    await db.execute(update(traces).where(traces.c.id.in_(trace_ids)).values(state="leased", lease_id=id))
    return await get(db, id)


async def _sweep(db: AsyncConnection, max_attempts: int, now: datetime) -> None:
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
