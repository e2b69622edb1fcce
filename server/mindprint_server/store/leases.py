"""Leases: a trainer's timed claim on the traces of one adapter.

The rows in the database are the only record of leases. A lease's row is locked before its state is checked. So if a
heartbeat, an upload and a sweep come at the same time, only one of them ends the lease. A lease on a user's adapter
marks its traces as leased. A lease on a cohort's adapter only lists them: a trace trains its user's adapter and the
cohort's independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, Update, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Lease, LeaseRequest, LeaseState, LoraLimits
from mindprint.types.keys import AdapterKey, VersionRef
from mindprint_server.store import lease_selection, live_versions
from mindprint_server.store.clock import note_mark, read_step, read_time
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.erasing import check_may_write
from mindprint_server.store.exceptions import AdapterLeased, LeaseLost, LeaseRevoked, RecordNotFound
from mindprint_server.store.holdout import Holdout
from mindprint_server.store.ids import new_id
from mindprint_server.store.lease_selection import ClaimPolicy, LeaseSelection
from mindprint_server.store.states import OPEN_PUBLICATION_STATES, after_bad_end, why_lost
from mindprint_server.store.tables import leases, publications, traces
from mindprint_server.tenancy import in_all_tenants

IdsByUser = Mapping[str, Sequence[str]]
MIN_STEP = timedelta(seconds=1)
"""A wall clock that was set by less is taken for one that runs a little fast or slow."""
CONFIRMED_CLAIMS = 3
"""Choices of one claim that others may take away. After them it chooses while others wait."""
IMPORT_OWNER = "import"
"""Owner of the lease of an import."""


@dataclass(frozen=True)
class ActiveLease:
    """What a lease that has not ended is on."""

    adapter: str
    trace_ids: list[str]


class LeaseRepository:
    """Stores leases and moves their traces through the queue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, request: LeaseRequest, policy: ClaimPolicy, *, now: datetime | None = None) -> Lease | None:
        """Lease the oldest accepted traces of an adapter that it was not trained on.

        First, if `policy.ends_expired`, expired leases end: their traces wait again, or are dead letters after
        `policy.max_attempts`.

        A user's adapter takes the user's waiting traces. A cohort's adapter takes the traces of all its users, also
        those that a user's own adapter was trained on or has leased. It is claimed once `request.min_traces` traces
        are new to it and, unless `request.adapter` names it, `policy.cohort_min_traces`. After `policy.max_attempts`
        failed leases it waits for newer traces. If the request names no adapter, cohorts come before users,
        and the adapter with most traces comes first. An adapter has at most one active lease.

        Args:
            request: What the trainer wants.
            policy: What the server decides.
            now: Start of the lease; None: the present by the database's clock (`clock.py`).

        Returns:
            The lease, or None if no adapter has enough traces. It has no samples, and its base digest and limits are
            empty: the caller fills them in. `held_out` leaves out what the live version, the version that training
            starts from, and their ancestors were trained on.
        """
        if policy.ends_expired:
            await self._database.write(_end_expired, policy.max_attempts, now)
        # To choose takes long where there are many users: read before others have to wait, then confirm what was read.
        for _ in range(CONFIRMED_CLAIMS):
            chosen = await self._database.read(lease_selection.select_traces, request, policy)
            if chosen is None:
                return None
            if lease := await self._database.write(_claim, request, policy, now, chosen):
                return lease
        return await self._database.write(_claim, request, policy, now, None)

    async def open_import(
        self,
        key: str,
        holdout: Holdout,
        *,
        ttl_s: float,
        max_attempts: int,
        max_users: int,
        now: datetime | None = None,
    ) -> Lease:
        """Open a lease without traces, under which a version that was trained elsewhere is published.

        Args:
            key: The adapter.
            holdout: Which engagements are held out for the gate.
            ttl_s: Seconds from now at which the lease ends, unless it is extended.
            max_attempts: Maximum number of failed leases of a trace; expired leases end first.
            max_users: Maximum number of users of a cohort whose engagements are held out.
            now: Start of the lease; None: the present by the database's clock.

        Raises:
            AdapterLeased: The adapter has an active lease.
            RecordNotFound: The user is gone.
            UserBeingErased: An erasure of the user is open.
        """
        return await self._database.write(_open_import, key, holdout, ttl_s, max_attempts, max_users, now)

    async def get(self, lease_id: str) -> Lease:
        """Return a lease, without samples, base digest and limits."""
        return await self._database.read(get, lease_id)

    async def list_active(self) -> list[ActiveLease]:
        """List the leases of all tenants that have not ended, also those past their deadline."""
        with in_all_tenants():
            return await self._database.read(_list_active)

    async def follow_clock(self) -> None:
        """Move the deadlines of all tenants' leases as far as the wall clock was set since a server ran here last.

        Call it at the start of the only server on a SQLite file: deadlines there are by the wall clock at the start of
        a process. On PostgreSQL nothing changes.
        """
        with in_all_tenants():
            await self._database.write(_follow_clock)

    async def heartbeat(self, lease_id: str, ttl_s: float, now: datetime | None = None) -> Lease:
        """Let a lease end `ttl_s` seconds from now.

        A lease past its deadline goes on if no claim has ended it yet: a trainer outlives an absence of the server.

        Raises:
            LeaseLost: The lease has ended.
        """
        return await self._database.write(_heartbeat, lease_id, ttl_s, now)

    async def extend(self, lease_id: str, ttl_s: float, now: datetime | None = None) -> Lease:
        """Let a lease hold for at least `ttl_s` seconds from now; it never ends earlier than before.

        A lease past its deadline goes on if no claim has ended it yet.

        Raises:
            LeaseLost: The lease has ended.
        """
        return await self._database.write(_extend, lease_id, ttl_s, now)

    async def release(self, lease_id: str, now: datetime | None = None) -> Lease:
        """End a lease; its traces wait again with unchanged attempts. A second call changes nothing.

        Raises:
            LeaseLost: The lease has ended otherwise, or its version is being published.
        """
        return await self._database.write(_release, lease_id, now)

    async def record_samples(
        self,
        lease_id: str,
        fast: IdsByUser,
        rejected: IdsByUser | None = None,
        now: datetime | None = None,
    ) -> None:
        """Record what the lease's samples are made of, for the lineage of its version.

        Args:
            lease_id: The lease.
            fast: Engagement ids of its fast samples, by user.
            rejected: Trace ids of its samples of rejected traces, by user.
            now: Time at which the lease must still hold; None: the present.

        Raises:
            LeaseLost: The lease has ended.
        """
        await self._database.write(_record_samples, lease_id, fast, rejected or {}, now)


async def _end_expired(db: AsyncConnection, max_attempts: int, now: datetime | None) -> None:
    await advisory_lock(db, "claims")
    await _sweep(db, max_attempts, now or await read_time(db))


async def _claim(
    db: AsyncConnection,
    request: LeaseRequest,
    policy: ClaimPolicy,
    now: datetime | None,
    chosen: LeaseSelection | None,
) -> Lease | None:
    """Store a lease on what was chosen; None if that changed since. Without a choice, choose now."""
    # Run claims one after the other: two at a time would split the traces of one adapter. Claims are few and short.
    await advisory_lock(db, "claims")
    now = now or await read_time(db)
    if chosen is None:
        selection = await lease_selection.select_traces(db, request, policy)
    else:
        selection = chosen if await lease_selection.is_still_free(db, chosen, policy) else None
    if selection is None:
        return None
    id, trace_ids = new_id(), [trace_id for trace_id, _ in selection.traces]
    start = await lease_selection.find_start(db, selection.adapter, policy)
    live = (await live_versions.get(db, selection.adapter)).live
    trained = [VersionRef.of(version.adapter, version.version) for version in (start, live) if version]
    lease = {
        "id": id,
        "adapter": selection.adapter,
        "owner": request.owner,
        "state": "active",
        "deadline": now + timedelta(seconds=request.ttl_s),
        "attempt": selection.attempt,
        "trace_ids": trace_ids,
        "held_out": await lease_selection.find_held_out(db, policy.holdout, selection, trained),
        "start": start.model_dump() if start else None,
        "parent": live.version if live else None,
        "created_at": now,
    }
    await db.execute(leases.insert(), lease)
    await note_mark(db)
    if AdapterKey(selection.adapter).kind == "user":
        await db.execute(update(traces).where(traces.c.id.in_(trace_ids)).values(state="leased", lease_id=id))
    return await get(db, id)


async def _open_import(
    db: AsyncConnection,
    key: str,
    holdout: Holdout,
    ttl_s: float,
    max_attempts: int,
    max_users: int,
    now: datetime | None,
) -> Lease:
    await advisory_lock(db, "claims")
    now = now or await read_time(db)
    if AdapterKey(key).kind == "user":
        await check_may_write(db, [AdapterKey(key).name])
    # Leases of other adapters are a trainer's claim to end: after a restart it waits for late heartbeats first.
    await _sweep(db, max_attempts, now, leases.c.adapter == key)
    active = select(leases.c.owner).where(leases.c.adapter == key, leases.c.state == "active")
    if (owner := await db.scalar(active)) is not None:
        raise AdapterLeased(key, owner)
    live = (await live_versions.get(db, key)).live
    members = await lease_selection.list_members(db, key, holdout, max_users)
    selection = LeaseSelection(key, 1, [("", user_id) for user_id in members])
    trained = [VersionRef.of(live.adapter, live.version)] if live else []
    lease = {
        "id": (id := new_id()),
        "adapter": key,
        "owner": IMPORT_OWNER,
        "state": "active",
        "deadline": now + timedelta(seconds=ttl_s),
        "attempt": 1,
        "trace_ids": [],
        "held_out": await lease_selection.find_held_out(db, holdout, selection, trained),
        "parent": live.version if live else None,
        "imported": True,
        "created_at": now,
    }
    await db.execute(leases.insert(), lease)
    return await get(db, id)


async def _sweep(db: AsyncConnection, max_attempts: int, now: datetime, *which: ColumnElement[bool]) -> None:
    """End expired leases, but none whose version is being published.

    Locked ones are skipped: another transaction is changing them.
    """
    expired = leases.c.state == "active", leases.c.deadline <= now, leases.c.id.not_in(being_published()), *which
    out = select(leases.c.id).where(*expired)
    locked = (await db.scalars(out.with_for_update(skip_locked=True))).all()
    # Asked again under the locks: an upload may have been stored after the first statement began.
    still = select(leases.c.id).where(leases.c.id.in_(locked), leases.c.id.not_in(being_published()))
    for id in (await db.scalars(still)).all() if locked else ():
        await end(db, id, "expired")
        await requeue_traces(db, id, max_attempts)


async def _follow_clock(db: AsyncConnection) -> None:
    if abs(step := await read_step(db)) >= MIN_STEP:
        active = select(leases.c.tenant, leases.c.id, leases.c.deadline).where(leases.c.state == "active")
        for row in (await db.execute(active)).all():
            mine = update(leases).where(leases.c.tenant == row.tenant, leases.c.id == row.id)
            await db.execute(mine.values(deadline=row.deadline + step))
    await note_mark(db)


async def _list_active(db: AsyncConnection) -> list[ActiveLease]:
    query = select(leases.c.adapter, leases.c.trace_ids).where(leases.c.state == "active")
    return [ActiveLease(adapter, trace_ids) for adapter, trace_ids in await db.execute(query)]


async def _heartbeat(db: AsyncConnection, id: str, ttl_s: float, now: datetime | None) -> Lease:
    await lock_active(db, id, now, may_be_late=True)
    now = now or await read_time(db)
    await db.execute(update(leases).where(leases.c.id == id).values(deadline=now + timedelta(seconds=ttl_s)))
    await note_mark(db)
    return await get(db, id)


async def _extend(db: AsyncConnection, id: str, ttl_s: float, now: datetime | None) -> Lease:
    row = await lock_active(db, id, now, may_be_late=True)
    deadline = (now or await read_time(db)) + timedelta(seconds=ttl_s)
    if deadline > row["deadline"]:
        await db.execute(update(leases).where(leases.c.id == id).values(deadline=deadline))
    await note_mark(db)
    return await get(db, id)


async def _release(db: AsyncConnection, id: str, now: datetime | None) -> Lease:
    if (await lock(db, id))["state"] != "released":
        await lock_active(db, id, now)
        if await db.scalar(being_published().where(publications.c.lease_id == id)) is not None:
            raise LeaseLost(id, "its upload is being checked")
        await end(db, id, "released")
        await db.execute(_leased(id).values(state="waiting", lease_id=None))
    return await get(db, id)


def being_published() -> Select[tuple[str]]:
    """Select the leases of uploaded versions that are not published, refused or given up yet."""
    return select(publications.c.lease_id).where(publications.c.state.in_(OPEN_PUBLICATION_STATES))


async def release_adapter(db: AsyncConnection, key: str) -> None:
    """Release the active lease of an adapter, if there is one."""
    active = select(leases.c.id).where(leases.c.adapter == key, leases.c.state == "active")
    for id in (await db.scalars(active)).all():
        if (await lock(db, id))["state"] == "active":
            await end(db, id, "released")
            await db.execute(_leased(id).values(state="waiting", lease_id=None))


async def _record_samples(
    db: AsyncConnection, id: str, fast: IdsByUser, rejected: IdsByUser, now: datetime | None
) -> None:
    await lock_active(db, id, now)
    recorded = {
        name: {user_id: list(ids) for user_id, ids in by_user.items()}
        for name, by_user in (("fast", fast), ("rejected", rejected))
    }
    await db.execute(update(leases).where(leases.c.id == id).values(**recorded))


async def get(db: AsyncConnection, id: str) -> Lease:
    """Return a lease, without samples, base digest and limits; raise RecordNotFound if it is not stored."""
    row = (await db.execute(select(leases).where(leases.c.id == id))).mappings().one_or_none()
    if row is None:
        raise RecordNotFound("lease", id)
    # The store does not know the base model and the LoRA limits: the lease service fills them in.
    return Lease.model_validate(dict(row) | {"base_digest": "", "limits": LoraLimits(max_rank=0, target_modules=[])})


async def lock(db: AsyncConnection, id: str) -> RowMapping:
    """Return a lease's row and lock it until this transaction ends."""
    query = select(leases).where(leases.c.id == id).with_for_update(key_share=True)
    row = (await db.execute(query)).mappings().one_or_none()
    if row is None:
        raise RecordNotFound("lease", id)
    return row


async def lock_active(db: AsyncConnection, id: str, now: datetime | None, *, may_be_late: bool = False) -> RowMapping:
    """Return and lock the row of an active lease; raise LeaseLost if it is not active.

    Args:
        db: The connection.
        id: The lease.
        now: Time at which it must hold; None: the present by the database's clock.
        may_be_late: Whether a lease past its deadline counts as active until a claim ends it.
    """
    row = await lock(db, id)
    if row["state"] == "revoked":
        raise LeaseRevoked(id, row["revoked_by"])
    late = row["deadline"] if not may_be_late else None
    if why := why_lost(row["state"], late, now or await read_time(db)):
        raise LeaseLost(id, why)
    return row


async def end(db: AsyncConnection, id: str, state: LeaseState, version: int | None = None) -> None:
    """Set the state of a lease that ends, and the version that it ended with."""
    await db.execute(update(leases).where(leases.c.id == id).values(state=state, version=version))


async def mark_trained(db: AsyncConnection, id: str, version: int) -> None:
    """Mark the lease's traces as trained in `version`."""
    await db.execute(_leased(id).values(state="trained", version=version))


async def requeue_traces(db: AsyncConnection, id: str, max_attempts: int) -> None:
    """Put traces of a failed lease back into the queue; they are dead letters after `max_attempts`."""
    tried = select(traces.c.attempts).where(traces.c.lease_id == id, traces.c.state == "leased").distinct()
    for attempts in (await db.scalars(tried)).all():
        state, after = after_bad_end(attempts, max_attempts)
        same = _leased(id).where(traces.c.attempts == attempts)
        await db.execute(same.values(state=state, attempts=after, lease_id=None))


def _leased(id: str) -> Update:
    return update(traces).where(traces.c.lease_id == id, traces.c.state == "leased")
