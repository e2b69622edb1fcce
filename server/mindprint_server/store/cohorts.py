"""Cohorts: groups of users whose traces train one adapter together.

A user is in exactly one cohort. A user who was added to none is in `everyone`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, Cohort
from mindprint.types.keys import COHORT_PREFIX, AdapterKey
from mindprint_server.store import leases
from mindprint_server.store import live_versions as live_version_rows
from mindprint_server.store.database import Database, advisory_lock, insert_new
from mindprint_server.store.exceptions import EveryoneStays, RecordNotFound
from mindprint_server.store.tables import cohorts, live_versions, users
from mindprint_server.store.users import in_cohort, must_exist


class CohortRepository:
    """Stores cohorts and moves users between them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_page(self, *, after: str | None = None, limit: int = 100) -> list[Cohort]:
        """List cohorts ordered by name; `everyone` is always among them.

        Args:
            after: Last name of the previous page; None starts at the beginning.
            limit: Maximum number of cohorts.
        """
        return await self._database.read(_list_page, after, limit)

    async def get(self, name: str) -> Cohort:
        """Return a cohort with the number of its users and its live version."""
        return await self._database.read(_get, name)

    async def put(self, name: str, description: str) -> Cohort:
        """Create a cohort, or replace its description."""
        return await self._database.write(_put, name, description)

    async def add_members(self, name: str, user_ids: Sequence[str]) -> Cohort:
        """Move all of these users into a cohort, or none of them if one is unknown.

        Raises:
            EveryoneStays: `everyone` cannot be joined.
        """
        return await self._database.write(_add_members, name, user_ids)

    async def remove_member(self, name: str, user_id: str) -> Cohort:
        """Move a user back to `everyone` and return the cohort that the user left.

        Raises:
            RecordNotFound: The user is not in this cohort.
            EveryoneStays: `everyone` cannot be left.
        """
        return await self._database.write(_remove_member, name, user_id)

    async def delete(self, name: str) -> None:
        """Delete a cohort: its users move to `everyone`, its adapter is taken off, an active lease is released.

        The versions of its adapter stay stored.

        Raises:
            EveryoneStays: `everyone` cannot be deleted.
        """
        await self._database.write(_delete, name)

    async def list_members(self, name: str, limit: int | None = None) -> list[str]:
        """List ids of a cohort's users in order, at most `limit`; None: all."""
        return await self._database.read(_list_members, name, limit)


async def _list_page(db: AsyncConnection, after: str | None, limit: int) -> list[Cohort]:
    later = [] if after is None else [cohorts.c.name > after]
    return await _load(db, _cohorts().where(*later).order_by(cohorts.c.name).limit(limit))


async def _get(db: AsyncConnection, name: str) -> Cohort:
    found = await _load(db, _cohorts().where(cohorts.c.name == name))
    if not found:
        raise RecordNotFound("cohort", name)
    return found[0]


async def _put(db: AsyncConnection, name: str, description: str) -> Cohort:
    row = {"name": name, "description": description, "created_at": datetime.now(UTC)}
    if not (await db.execute(insert_new(db, cohorts), row)).rowcount:
        await db.execute(update(cohorts).where(cohorts.c.name == name).values(description=description))
    return await _get(db, name)


async def _add_members(db: AsyncConnection, name: str, user_ids: Sequence[str]) -> Cohort:
    await _lock(db, name)
    await must_exist(db, *user_ids)
    await db.execute(update(users).where(users.c.id.in_(user_ids)).values(cohort=name))
    return await _get(db, name)


async def _remove_member(db: AsyncConnection, name: str, user_id: str) -> Cohort:
    await _lock(db, name)
    leave = update(users).where(users.c.id == user_id, users.c.cohort == name).values(cohort=None)
    if not (await db.execute(leave)).rowcount:
        raise RecordNotFound(f"member of cohort {name!r},", user_id)
    return await _get(db, name)


async def _delete(db: AsyncConnection, name: str) -> None:
    await _lock(db, name)
    # Without this lock a claim could lease the adapter before the cohort is gone.
    await advisory_lock(db, "claims")
    key = AdapterKey.cohort(name)
    await leases.release_adapter(db, key)
    await live_version_rows.take_off(db, key)
    await db.execute(update(users).where(users.c.cohort == name).values(cohort=None))
    await db.execute(cohorts.delete().where(cohorts.c.name == name))


async def _list_members(db: AsyncConnection, name: str, limit: int | None) -> list[str]:
    await _get(db, name)
    query = select(users.c.id).where(in_cohort(name)).order_by(users.c.id).limit(limit)
    return list((await db.scalars(query)).all())


async def _lock(db: AsyncConnection, name: str) -> None:
    """Serialize changes of membership, so that no user is left in a cohort that is being deleted."""
    if name == EVERYONE:
        raise EveryoneStays
    await advisory_lock(db, "cohorts")
    await _get(db, name)


def _cohorts() -> Select[Any]:
    inside = or_(users.c.cohort == cohorts.c.name, and_(cohorts.c.name == EVERYONE, users.c.cohort.is_(None)))
    live = select(live_versions.c.version).where(live_versions.c.adapter == COHORT_PREFIX + cohorts.c.name)
    return select(
        cohorts,
        select(func.count(users.c.id)).where(inside).scalar_subquery().label("users"),
        live.scalar_subquery().label("live"),
    )


async def _load(db: AsyncConnection, query: Select[Any]) -> list[Cohort]:
    return [Cohort.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]
