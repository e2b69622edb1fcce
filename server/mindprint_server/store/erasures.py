"""Erasures: durable jobs that delete a user's rows in small steps. Each step is one transaction, safe to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field
from sqlalchemy import Text, cast, delete, or_, select, tuple_, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Erasure, Receipt
from mindprint.types.keys import AdapterKey
from mindprint_server.store import erasure_plan
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.erasure_plan import ErasurePlan, ErasureTarget
from mindprint_server.store.exceptions import RecordNotFound
from mindprint_server.store.ids import new_id
from mindprint_server.store.tables import (
    batch_items,
    engagements,
    erasures,
    leases,
    live_versions,
    profiles,
    publications,
    tenants,
    trace_versions,
    traces,
    users,
    version_users,
    versions,
)
from mindprint_server.tenancy import current_tenant, in_all_tenants

RowKind = Literal["traces", "batch_items", "profiles", "engagements", "versions"]
"""Kinds of rows in the order in which they are deleted: a row goes before those that it refers to."""
NOTHING_TO_ERASE = "nothing is to be erased; GET /v1/users lists the users, GET /v1/erasures who was erased"


class SealedErasure(BaseModel, frozen=True):
    """An erasure whose rows are deleted."""

    epoch: int
    versions: list[str] = Field(default_factory=list)
    """The versions whose files are to be removed."""
    artifacts: list[str] = Field(default_factory=list)
    """Under which those files are stored."""


@dataclass(frozen=True)
class Chunk:
    """Rows that one transaction deletes."""

    kind: RowKind
    ids: Sequence[str]


def chunks(plan: ErasurePlan, size: int) -> Iterator[Chunk]:
    """Yield the rows of a plan in pieces of at most `size`, in the order in which they are to be deleted."""
    for kind in get_args(RowKind):
        ids: Sequence[str] = getattr(plan, kind)
        for start in range(0, len(ids), size):
            yield Chunk(kind, ids[start : start + size])


class ErasureRepository:
    """Stores erasures and does their steps.

    The steps are `collect`, `delete` for each chunk, `seal`, `finish`, in this order. A step that was done before
    changes nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request(self, target: ErasureTarget, now: datetime | None = None) -> Erasure:
        """Open an erasure. Until it is done no rows of the user are stored. Beside a retention engagements are.

        Returns:
            The new erasure; the open one that removes the same; or, where nothing of it is left, the one that did it.

        Raises:
            RecordNotFound: There is no such user or engagement, and no erasure of it.
        """
        return await self._database.write(_request, target, now or datetime.now(UTC))

    async def get(self, erasure_id: str) -> Erasure:
        """Return an erasure."""
        return await self._database.read(_get, erasure_id)

    async def list_page(self, *, after: str | None = None, limit: int = 100) -> list[Erasure]:
        """List erasures in the order of their requests.

        Args:
            after: Last id of the previous page; None starts at the beginning.
            limit: Maximum number of erasures.
        """
        return await self._database.read(_list_page, after, limit)

    async def list_open(self) -> list[tuple[str, str]]:
        """List (tenant, erasure id) of the open erasures of all tenants, oldest first."""
        with in_all_tenants():
            return await self._database.read(_list_open)

    async def list_sealed(self, after: int) -> list[SealedErasure]:
        """List the erasures with an epoch above `after`, the lowest first."""
        return await self._database.read(_list_sealed, after)

    async def collect(self, erasure_id: str) -> ErasurePlan | None:
        """Decide what is removed; revoke the leases and withdraw the versions that the rows are in.

        Traces of other users in those leases and versions wait again. Pointers fall back to the newest version that
        did not learn from the rows.

        Returns:
            The plan; None if the erasure is done.
        """
        return await self._database.write(_collect, erasure_id)

    async def delete(self, erasure_id: str, chunk: Chunk) -> None:
        """Delete one chunk of a plan's rows."""
        await self._database.write(_delete, erasure_id, chunk)

    async def seal(self, erasure_id: str) -> int | None:
        """Remove the last traces of the user in other rows, and begin a new epoch of the tenant.

        Returns:
            The epoch; None for a retention, which begins none.
        """
        return await self._database.write(_seal, erasure_id)

    async def finish(
        self, erasure_id: str, sign: Callable[[Receipt], Receipt], now: datetime | None = None
    ) -> Erasure | None:
        """Store the receipt and take rows of the user again; of a whole user the user itself goes too.

        Returns:
            The erasure; None if it was done before.
        """
        return await self._database.write(_finish, erasure_id, sign, now or datetime.now(UTC))

    async def list_expired_users(
        self, *, engagements_before: datetime | None, traces_before: datetime | None, limit: int
    ) -> list[str]:
        """List users with rows that are older than they may be, ordered by id.

        Args:
            engagements_before: Engagements before this time are too old; None: none is.
            traces_before: Traces that were written before this time are too old; None: none is.
            limit: Maximum number of users.
        """
        return await self._database.read(_list_expired_users, engagements_before, traces_before, limit)

    async def purge(self) -> None:
        """Overwrite deleted rows in the files of the database.

        On PostgreSQL this is an attempt: rows that a running transaction still sees stay until autovacuum comes.

        Raises:
            StoreError: The file of SQLite could not be written anew, or its log not be emptied.
        """
        await self._database.purge([table.name for table in _PURGED])


_PURGED = (engagements, profiles, traces, batch_items, versions, publications, leases, erasures)


async def _request(db: AsyncConnection, target: ErasureTarget, now: datetime) -> Erasure:
    user_id = target.user_id
    # In the mode that writers' key shares wait for: after this, each of them is either in the plan or sees this row.
    is_user = await db.scalar(select(users.c.id).where(users.c.id == user_id).with_for_update())
    for row in await _of_user(db, user_id, "open"):
        if row["kind"] == "user" or target.kind == "retention" or _is_same(row, target):
            return _erasure(row)
    if not is_user or not await _has_rows(db, target):
        done = [
            row
            for row in await _of_user(db, user_id, "done")
            if _is_same(row, target) or (row["kind"] == "user" and not is_user)
        ]
        if done:
            return _erasure(done[-1])
        if not is_user or target.engagement_id is not None:
            raise (
                RecordNotFound("engagement", str(target.engagement_id))
                if is_user
                else RecordNotFound("user", user_id, hint=NOTHING_TO_ERASE)
            )
    id = new_id()
    await db.execute(erasures.insert(), {**target.model_dump(), "id": id, "state": "open", "created_at": now})
    return await _get(db, id)


def _is_same(row: RowMapping, target: ErasureTarget) -> bool:
    return all(row[name] == value for name, value in target.model_dump().items())


async def _has_rows(db: AsyncConnection, target: ErasureTarget) -> bool:
    if target.kind in ("user", "retention"):
        return True
    erased = select(engagements.c.id).where(*erasure_plan.is_erased(target)).limit(1)
    return await db.scalar(erased) is not None


async def _of_user(db: AsyncConnection, user_id: str, state: str) -> Sequence[RowMapping]:
    query = select(erasures).where(erasures.c.user_id == user_id, erasures.c.state == state).order_by(erasures.c.id)
    return (await db.execute(query)).mappings().all()


async def _get(db: AsyncConnection, id: str) -> Erasure:
    row = (await db.execute(select(erasures).where(erasures.c.id == id))).mappings().one_or_none()
    if row is None:
        raise RecordNotFound("erasure", id)
    return _erasure(row)


async def _list_page(db: AsyncConnection, after: str | None, limit: int) -> list[Erasure]:
    query = select(erasures).order_by(erasures.c.id).limit(limit)
    if after is not None:
        query = query.where(erasures.c.id > after)
    return [_erasure(row) for row in (await db.execute(query)).mappings()]


async def _list_open(db: AsyncConnection) -> list[tuple[str, str]]:
    query = select(erasures.c.tenant, erasures.c.id).where(erasures.c.state == "open").order_by(erasures.c.id)
    return [(tenant, id) for tenant, id in await db.execute(query)]


async def _list_sealed(db: AsyncConnection, after: int) -> list[SealedErasure]:
    query = select(erasures.c.epoch, erasures.c.plan, erasures.c.receipt).where(erasures.c.epoch > after)
    sealed = []
    for row in await db.execute(query.order_by(erasures.c.epoch)):
        if row.plan is not None:
            plan = ErasurePlan.model_validate(row.plan)
            names, artifacts = plan.without_files, plan.artifacts
        else:
            receipt = Receipt.model_validate(row.receipt)
            names = [*receipt.removed.get("versions", ()), *receipt.withdrawn]
            artifacts = receipt.removed.get("artifacts", [])
        sealed.append(SealedErasure(epoch=row.epoch, versions=names, artifacts=artifacts))
    return sealed


async def _collect(db: AsyncConnection, id: str) -> ErasurePlan | None:
    # Without this lock a claim could lease the rows, or start from a version of them, meanwhile.
    await advisory_lock(db, "claims")
    job = await _lock(db, id)
    if job["state"] == "done":
        return None
    if job["plan"] is not None:
        return ErasurePlan.model_validate(job["plan"])
    target = ErasureTarget.model_validate(dict(job))
    plan = await erasure_plan.make(db, id, target)
    await db.execute(update(erasures).where(erasures.c.id == id).values(plan=plan.model_dump(mode="json")))
    return plan


async def _lock(db: AsyncConnection, id: str) -> RowMapping:
    query = select(erasures).where(erasures.c.id == id).with_for_update()
    row = (await db.execute(query)).mappings().one_or_none()
    if row is None:
        raise RecordNotFound("erasure", id)
    return row


async def _delete(db: AsyncConnection, id: str, chunk: Chunk) -> None:
    job = await _lock(db, id)
    if job["state"] == "done":
        return  # the user may exist anew
    user_id, ids = job["user_id"], chunk.ids
    if chunk.kind == "traces":
        # Before rows are locked, as others do: the count of live traces takes this lock for traces that go.
        await advisory_lock(db, f"adapter {AdapterKey.user(user_id)}")
        await db.execute(delete(trace_versions).where(trace_versions.c.trace_id.in_(ids)))
        await db.execute(delete(traces).where(traces.c.user_id == user_id, traces.c.id.in_(ids)))
    elif chunk.kind == "batch_items":
        pairs = [tuple(name.split("/", 1)) for name in ids]
        of_pair = tuple_(batch_items.c.batch_id, batch_items.c.engagement_id).in_(pairs)
        await db.execute(delete(batch_items).where(batch_items.c.user_id == user_id, of_pair))
    elif chunk.kind == "profiles":
        numbers = [int(number) for number in ids]
        await db.execute(delete(profiles).where(profiles.c.user_id == user_id, profiles.c.version.in_(numbers)))
    elif chunk.kind == "engagements":
        # Beside a retention engagements are stored: one that was deleted may have come again with a later time.
        is_old = [] if job["kind"] != "retention" else [engagements.c.occurred_at < job["before"]]
        mine = engagements.c.user_id == user_id, engagements.c.id.in_(ids)
        await db.execute(delete(engagements).where(*mine, *is_old))
    else:
        await _delete_versions(db, AdapterKey.user(user_id))


async def _delete_versions(db: AsyncConnection, key: str) -> None:
    for table in (live_versions, trace_versions, version_users, versions):
        await db.execute(delete(table).where(table.c.adapter == key))


async def _seal(db: AsyncConnection, id: str) -> int | None:
    job = await _lock(db, id)
    if job["epoch"] is not None or job["kind"] == "retention" or job["state"] == "done":
        return None if job["epoch"] is None else int(job["epoch"])
    if job["kind"] == "user":
        await _forget_in_leases(db, job["user_id"])
        await db.execute(delete(version_users).where(version_users.c.user_id == job["user_id"]))
    mine = tenants.c.id == current_tenant()
    epoch = await db.scalar(
        update(tenants).where(mine).values(erasure_epoch=tenants.c.erasure_epoch + 1).returning(tenants.c.erasure_epoch)
    )
    await db.execute(update(erasures).where(erasures.c.id == id).values(epoch=epoch))
    return int(epoch)


async def _forget_in_leases(db: AsyncConnection, user_id: str) -> None:
    """Remove the user's engagement and trace ids from all leases. Those of the user's own adapter list them alone."""
    by_user = leases.c.held_out, leases.c.fast, leases.c.rejected
    named = [cast(column, Text).contains(f'"{user_id}"', autoescape=True) for column in by_user]
    for row in (await db.execute(select(leases.c.id, *by_user).where(or_(*named)))).mappings().all():
        rest = {
            column.name: {user: ids for user, ids in row[column.name].items() if user != user_id} for column in by_user
        }
        await db.execute(update(leases).where(leases.c.id == row["id"]).values(**rest))
    own = update(leases).where(leases.c.adapter == AdapterKey.user(user_id))
    await db.execute(own.values(trace_ids=[], start=None))


async def _finish(db: AsyncConnection, id: str, sign: Callable[[Receipt], Receipt], now: datetime) -> Erasure | None:
    job = await _lock(db, id)
    if job["state"] == "done":
        return None
    plan = ErasurePlan.model_validate(job["plan"])
    receipt = sign(_receipt(job, plan, now))
    done = {"state": "done", "plan": None, "finished_at": now, "receipt": receipt.model_dump(mode="json")}
    await db.execute(update(erasures).where(erasures.c.id == id).values(**done))
    if job["kind"] == "user":
        await db.execute(delete(users).where(users.c.id == job["user_id"]))
    return await _get(db, id)


def _receipt(job: RowMapping, plan: ErasurePlan, now: datetime) -> Receipt:
    removed = {kind: list(getattr(plan, kind)) for kind in sorted((*get_args(RowKind), "artifacts"))}
    fields = {
        name: job[name]
        for name in ("id", "tenant", "kind", "user_id", "engagement_id", "after", "before", "traces_before")
    }
    return Receipt(
        **fields,
        requested_at=job["created_at"],
        finished_at=now,
        counts={kind: len(ids) for kind, ids in removed.items()},
        removed=removed,
        withdrawn=plan.withdrawn,
        revoked_leases=plan.revoked_leases,
        retraining=plan.retraining,
    )


async def _list_expired_users(
    db: AsyncConnection, engagements_before: datetime | None, traces_before: datetime | None, limit: int
) -> list[str]:
    found: set[str] = set()
    for column, time, before in (
        (engagements.c.user_id, engagements.c.occurred_at, engagements_before),
        (traces.c.user_id, traces.c.created_at, traces_before),
    ):
        if before is not None:
            query = select(column).distinct().where(time < before).order_by(column).limit(limit)
            found.update((await db.scalars(query)).all())
    return sorted(found)[:limit]


def _erasure(row: RowMapping | dict[str, Any]) -> Erasure:
    return Erasure.model_validate({name: row[name] for name in Erasure.model_fields})
