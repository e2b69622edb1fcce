"""Publication jobs: uploaded versions that a server checks and takes into service.

A job is claimed as an item of a batch is: by two columns of its row, the server and a deadline by the database's clock.
After the deadline any server may go on with it. While a job is open its lease does not expire, so no trainer has to
wait for it. When it ends, its row keeps neither the manifest nor the artifact: the version's row has them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Manifest, Publication, PublicationState
from mindprint_server.store import leases
from mindprint_server.store.clock import read_time
from mindprint_server.store.database import Database
from mindprint_server.store.exceptions import LeaseLost, PublicationConflict, RecordNotFound
from mindprint_server.store.ids import new_id
from mindprint_server.store.states import OPEN_PUBLICATION_STATES
from mindprint_server.store.tables import publications
from mindprint_server.store.versions import VersionRecord
from mindprint_server.tenancy import in_all_tenants


class PublicationRecord(Publication):
    """A job with what only the server needs to know about it."""

    engine_id: int = Field(exclude=True)
    digest: str = Field(exclude=True)
    """SHA-256 of the uploaded weights."""
    artifact: str | None = Field(None, exclude=True)
    """Under which the files are stored; None once the job has ended."""
    manifest: Manifest | None = Field(None, exclude=True)
    """None once the job has ended."""

    @property
    def is_open(self) -> bool:
        """Whether the job has not ended."""
        return self.state in OPEN_PUBLICATION_STATES


@dataclass(frozen=True)
class OpenPublication:
    """A job that has not ended, and whose it is."""

    tenant: str
    id: str


class PublicationJobRepository:
    """Stores publication jobs, and claims them for servers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, lease_id: str, version: VersionRecord, *, now: datetime | None = None) -> PublicationRecord:
        """Store the job of an uploaded version, whose files are stored. The lease has at most one.

        Args:
            lease_id: The lease that the version was trained under. It may be late, if no claim has ended it.
            version: The version.
            now: Time of the upload; None: the present by the database's clock.

        Returns:
            The job; an earlier one of the same weights if there is one.

        Raises:
            LeaseLost: The lease has ended, or is of another adapter.
            PublicationConflict: The lease has a job of other weights.
        """
        return await self._database.write(_add, lease_id, version, now)

    async def get(self, publication_id: str) -> PublicationRecord:
        """Return a job."""
        return await self._database.read(_get, publication_id)

    async def find_of_lease(self, lease_id: str) -> PublicationRecord | None:
        """Return the job of a lease; None if nothing was uploaded."""
        return await self._database.read(_find_of_lease, lease_id)

    async def find_open(self, adapter: str) -> PublicationRecord | None:
        """Return the newest open job of an adapter; None if there is none."""
        return await self._database.read(_find_open, adapter)

    async def list_claimable(self, *, now: datetime | None = None) -> list[OpenPublication]:
        """List the open jobs of all tenants that no server holds, oldest first.

        Args:
            now: None: the present by the database's clock.
        """
        with in_all_tenants():
            return await self._database.read(_list_claimable, now)

    async def claim(
        self, publication_id: str, owner: str, *, ttl_s: float, is_try: bool = True, now: datetime | None = None
    ) -> PublicationRecord | None:
        """Claim an open job, or begin again with one that the server holds.

        Args:
            publication_id: The job.
            owner: The server.
            ttl_s: Seconds until the claim ends, if it is not extended.
            is_try: Whether it counts as a try.
            now: None: the present by the database's clock.

        Returns:
            The job; None if it has ended or another server holds it.
        """
        return await self._database.write(_claim, publication_id, owner, ttl_s, is_try, now)

    async def extend(self, owner: str, ids: Collection[str], *, ttl_s: float, now: datetime | None = None) -> set[str]:
        """Let claims end `ttl_s` seconds from now, and return the jobs on which the server has to stop its work.

        These are jobs that another server holds, and those that an erasure ended.

        Args:
            owner: The server.
            ids: Its jobs.
            ttl_s: Seconds until the claims end.
            now: None: the present by the database's clock.
        """
        return await self._database.write(_extend, owner, ids, ttl_s, now)

    async def give_back(self, owner: str, publication_id: str | None = None) -> None:
        """End claims of a server in the tenant, so that any server may go on.

        Args:
            owner: The server.
            publication_id: The job; None: all of the server's.
        """
        await self._database.write(_give_back, owner, publication_id)

    async def release_all(self) -> None:
        """Give back all jobs of all tenants: no other server runs, so who claimed them has ended."""
        with in_all_tenants():
            await self._database.write(_release_all)

    async def begin_step(self, publication_id: str, owner: str, state: PublicationState) -> bool:
        """Note what the server does now. Return whether it still holds the job."""
        return await self._database.write(_begin_step, publication_id, owner, state)

    async def fail(self, publication_id: str, *, code: str, message: str, max_attempts: int) -> str | None:
        """End an open job without a version. Its lease ends as one that failed, if it has not ended yet.

        Args:
            publication_id: The job.
            code: Why, for programs.
            message: Why, and what to do.
            max_attempts: Maximum number of failed leases of a trace.

        Returns:
            The artifact whose files are to be removed; None if the job had ended before.
        """
        return await self._database.write(_fail, publication_id, code, message, max_attempts)

    async def remove_ended(self, before: datetime) -> int:
        """Remove the jobs of all tenants that ended before a time, and return their number."""
        with in_all_tenants():
            return await self._database.write(_remove_ended, before)


async def _add(db: AsyncConnection, lease_id: str, version: VersionRecord, now: datetime | None) -> PublicationRecord:
    lease = await leases.lock(db, lease_id)
    if (known := await _find_of_lease(db, lease_id)) is not None:
        if known.digest != version.digest:
            raise PublicationConflict(lease_id, known.digest)
        return known
    await leases.lock_active(db, lease_id, now, may_be_late=True)
    if lease["adapter"] != version.adapter:
        raise LeaseLost(lease_id, f"it holds traces of {lease['adapter']}, not of {version.adapter}")
    id, now = new_id(), now or await read_time(db)
    row = {
        "id": id,
        "lease_id": lease_id,
        "adapter": version.adapter,
        "version": version.version,
        "engine_id": version.engine_id,
        "digest": version.digest,
        "artifact": version.artifact,
        "manifest": version.manifest.model_dump(mode="json"),
        "state": "stored",
        "steps": {"stored": now.isoformat()},
        "created_at": now,
    }
    await db.execute(publications.insert(), row)
    return await _get(db, id)


async def _get(db: AsyncConnection, id: str) -> PublicationRecord:
    row = (await db.execute(select(publications).where(publications.c.id == id))).mappings().one_or_none()
    if row is None:
        raise RecordNotFound("publication", id)
    return _record(row)


async def _find_of_lease(db: AsyncConnection, lease_id: str) -> PublicationRecord | None:
    query = select(publications).where(publications.c.lease_id == lease_id)
    row = (await db.execute(query)).mappings().one_or_none()
    return None if row is None else _record(row)


async def _find_open(db: AsyncConnection, adapter: str) -> PublicationRecord | None:
    query = select(publications).where(publications.c.adapter == adapter, _is_open())
    row = (await db.execute(query.order_by(publications.c.id.desc()).limit(1))).mappings().one_or_none()
    return None if row is None else _record(row)


async def _list_claimable(db: AsyncConnection, now: datetime | None) -> list[OpenPublication]:
    query = select(publications.c.tenant, publications.c.id).where(
        _is_open(), _is_claimable(now or await read_time(db))
    )
    return [OpenPublication(tenant, id) for tenant, id in await db.execute(query.order_by(publications.c.id))]


async def _claim(
    db: AsyncConnection, id: str, owner: str, ttl_s: float, is_try: bool, now: datetime | None
) -> PublicationRecord | None:
    now = now or await read_time(db)
    mine = publications.c.owner == owner
    claimed = (
        update(publications)
        .where(publications.c.id == id, _is_open(), or_(mine, _is_claimable(now)))
        .values(owner=owner, deadline=now + timedelta(seconds=ttl_s), tries=publications.c.tries + int(is_try))
    )
    return await _get(db, id) if (await db.execute(claimed)).rowcount else None


async def _extend(
    db: AsyncConnection, owner: str, ids: Collection[str], ttl_s: float, now: datetime | None
) -> set[str]:
    deadline = (now or await read_time(db)) + timedelta(seconds=ttl_s)
    held = publications.c.id.in_(ids), publications.c.owner == owner, _is_open()
    await db.execute(update(publications).where(*held).values(deadline=deadline))
    # A job that this server has just ended itself is none of them: its work ends by itself.
    taken = ((publications.c.owner != owner) & _is_open()) | (publications.c.state == "failed")
    lost = select(publications.c.id).where(publications.c.id.in_(ids), taken)
    return set((await db.scalars(lost)).all())


async def _give_back(db: AsyncConnection, owner: str, id: str | None) -> None:
    mine = update(publications).where(publications.c.owner == owner, _is_open())
    if id is not None:
        mine = mine.where(publications.c.id == id)
    await db.execute(mine.values(owner=None, deadline=None))


async def _begin_step(db: AsyncConnection, id: str, owner: str, state: PublicationState) -> bool:
    row = await _lock(db, id)
    if row["owner"] != owner or row["state"] not in OPEN_PUBLICATION_STATES:
        return False
    steps = {**row["steps"], state: (await read_time(db)).isoformat()}
    await db.execute(update(publications).where(publications.c.id == id).values(state=state, steps=steps))
    return True


async def _fail(db: AsyncConnection, id: str, code: str, message: str, max_attempts: int) -> str | None:
    # The lease first, as everything that ends both does.
    lease_id = (await _get(db, id)).lease_id
    lease = await leases.lock(db, lease_id)
    row = await _lock(db, id)
    if row["state"] not in OPEN_PUBLICATION_STATES:
        return None
    if lease["state"] == "active":
        await leases.end(db, lease_id, "released")
        await leases.requeue_traces(db, lease_id, max_attempts)
    await _end(db, publications.c.id == id, "failed", code, message)
    artifact: str | None = row["artifact"]
    return artifact


async def _remove_ended(db: AsyncConnection, before: datetime) -> int:
    return (await db.execute(delete(publications).where(~_is_open(), publications.c.finished_at < before))).rowcount


async def finish(
    db: AsyncConnection, lease_id: str, state: PublicationState, *, code: str | None = None, message: str | None = None
) -> None:
    """End the open job of a lease, if there is one, together with the lease."""
    await _end(db, (publications.c.lease_id == lease_id) & _is_open(), state, code, message)


async def revoke(db: AsyncConnection, lease_ids: Sequence[str], erasure_id: str) -> list[str]:
    """End the open jobs of revoked leases, and return the artifacts whose files are to be removed."""
    open_ones = publications.c.lease_id.in_(lease_ids) & _is_open()
    found = (await db.scalars(select(publications.c.artifact).where(open_ones))).all()
    message = f"erasure {erasure_id} removed data that the version may depend on: train or import it again"
    await _end(db, open_ones, "failed", "lease_revoked", message)
    return sorted(artifact for artifact in found if artifact)


async def is_open(db: AsyncConnection, lease_id: str) -> bool:
    """Return whether a lease has an open job: it then holds without a heartbeat."""
    query = select(publications.c.id).where(publications.c.lease_id == lease_id, _is_open())
    return await db.scalar(query) is not None


async def _end(
    db: AsyncConnection,
    which: ColumnElement[bool],
    state: PublicationState,
    code: str | None,
    message: str | None,
) -> None:
    values: dict[str, Any] = {"manifest": None, "artifact": None, "owner": None, "deadline": None}
    values |= {"state": state, "code": code, "message": message, "finished_at": await read_time(db)}
    await db.execute(update(publications).where(which).values(**values))


async def _lock(db: AsyncConnection, id: str) -> RowMapping:
    query = select(publications).where(publications.c.id == id).with_for_update(key_share=True)
    return (await db.execute(query)).mappings().one()


def _is_open() -> ColumnElement[bool]:
    return publications.c.state.in_(OPEN_PUBLICATION_STATES)


def _is_claimable(now: datetime) -> ColumnElement[bool]:
    return or_(publications.c.owner.is_(None), publications.c.deadline <= now)


def _record(row: RowMapping) -> PublicationRecord:
    return PublicationRecord.model_validate(dict(row))


async def _release_all(db: AsyncConnection) -> None:
    claimed = publications.c.owner.is_not(None) & _is_open()
    await db.execute(update(publications).where(claimed).values(owner=None, deadline=None))
