"""Lineage in both directions: what a version was trained on and started from, and the versions that a trace is in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import LearnedFrom, Lineage
from mindprint.types.keys import VersionRef
from mindprint_server.store import versions as version_rows
from mindprint_server.store.database import Database
from mindprint_server.store.tables import leases, trace_versions, traces, version_users, versions


class LineageRepository:
    """Reads what versions were trained on."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str, version: int) -> Lineage:
        """Return what a version was trained on and the versions that its training started from.

        Traces that were erased since are missing.
        """
        return await self._database.read(_get, key, version)

    async def list_versions_of_user(self, user_id: str) -> list[tuple[str, int]]:
        """List (adapter key, number) of the versions that learned from a user, also of those that were refused."""
        return await self._database.read(_list_versions_of_user, user_id)


async def _list_versions_of_user(db: AsyncConnection, user_id: str) -> list[tuple[str, int]]:
    columns = version_users.c.adapter, version_users.c.version
    query = select(*columns).where(version_users.c.user_id == user_id).order_by(*columns)
    return [(key, number) for key, number in await db.execute(query)]


async def record(db: AsyncConnection, trace_ids: Sequence[str], key: str, number: int) -> None:
    """Store that these traces, and so their users, are in this version."""
    there = select(traces.c.id, literal(key), literal(number)).where(traces.c.id.in_(trace_ids))
    await db.execute(trace_versions.insert().from_select(["trace_id", "adapter", "version"], there))
    of_users = select(traces.c.user_id, literal(key), literal(number)).where(traces.c.id.in_(trace_ids)).distinct()
    await db.execute(version_users.insert().from_select(["user_id", "adapter", "version"], of_users))


async def list_versions_by_trace(db: AsyncConnection, trace_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return by trace id the versions that were trained on it, such as `user/anna@7`, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    in_order = trace_versions.c.adapter, trace_versions.c.version
    query = (
        select(trace_versions.c.trace_id, *in_order).where(trace_versions.c.trace_id.in_(trace_ids)).order_by(*in_order)
    )
    for id, key, number in await db.execute(query):
        found[id].append(VersionRef.of(key, number))
    return found


async def _get(db: AsyncConnection, key: str, number: int) -> Lineage:
    version = await version_rows.get(db, key, number)
    of_lease = versions.join(leases, leases.c.id == versions.c.lease_id)
    mine = versions.c.adapter == key, versions.c.version == number
    recorded = select(leases.c.fast, leases.c.rejected, leases.c.held_out, leases.c.imported)
    lease = (await db.execute(recorded.select_from(of_lease).where(*mine))).one()
    learned = (
        select(traces.c.id, traces.c.user_id, traces.c.engagement_id, traces.c.provenance, traces.c.scores)
        .join(trace_versions, trace_versions.c.trace_id == traces.c.id)
        .where(trace_versions.c.adapter == key, trace_versions.c.version == number)
        .order_by(traces.c.id)
    )
    return Lineage(
        version=version,
        traces=[
            LearnedFrom(
                trace_id=row.id,
                user_id=row.user_id,
                engagement_id=row.engagement_id or "",
                saw_answer=row.provenance.get("saw_answer", False),
                scores=row.scores,
            )
            for row in await db.execute(learned)
        ],
        fast=lease.fast,
        rejected=lease.rejected,
        held_out=lease.held_out,
        imported=lease.imported,
        ancestors=(await list_line(db, VersionRef.of(key, number)))[1:],
    )


async def list_line(db: AsyncConnection, name: str) -> list[str]:
    """List a version such as `user/anna@7`, the one that its training started from, and so on to the first."""
    names: list[str] = []
    starts: dict[str, str | None] = {}
    following: str | None = name
    while following is not None:
        names.append(following)
        if following not in starts:
            # Read all versions of the adapter at once: most of them started from one of the same adapter.
            key = VersionRef(following).key
            of_adapter = select(versions.c.version, versions.c.start).where(versions.c.adapter == key)
            starts |= {VersionRef.of(key, number): start for number, start in await db.execute(of_adapter)}
        following = starts.get(following)
    return names


async def find_trained_engagements(
    db: AsyncConnection, names: Iterable[str], user_ids: Collection[str]
) -> set[tuple[str, str]]:
    """Return (user id, engagement id) that these versions and all their ancestors were trained on, slow or fast."""
    line = {each for name in names for each in await list_line(db, name)}
    numbered = [(ref.key, ref.number) for ref in map(VersionRef, line)]
    slow = (
        select(traces.c.user_id, traces.c.engagement_id)
        .join(trace_versions, trace_versions.c.trace_id == traces.c.id)
        .where(
            tuple_(trace_versions.c.adapter, trace_versions.c.version).in_(numbered),
            traces.c.user_id.in_(user_ids),
        )
    )
    found = {(user_id, id) for user_id, id in await db.execute(slow)}
    fast = (
        select(leases.c.fast)
        .join(versions, versions.c.lease_id == leases.c.id)
        .where(tuple_(versions.c.adapter, versions.c.version).in_(numbered))
    )
    for by_user in await db.scalars(fast):
        found |= {(user_id, id) for user_id in by_user.keys() & set(user_ids) for id in by_user[user_id]}
    return found
