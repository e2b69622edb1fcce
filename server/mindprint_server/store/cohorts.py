"""Cohorts: whose traces train one adapter together. A user is in one; those in no other are in `everyone`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, Cohort
from mindprint_server.store import leases, users
from mindprint_server.store import live_versions as live_rows
from mindprint_server.store.database import advisory_lock, insert_new
from mindprint_server.store.exceptions import EveryoneStays, NotFound
from mindprint_server.store.tables import cohorts, live_versions
from mindprint_server.store.tables import users as people


async def every(db: AsyncConnection) -> list[Cohort]:
    return await _load(db, _cohorts().order_by(cohorts.c.name))


async def get(db: AsyncConnection, name: str) -> Cohort:
    found = await _load(db, _cohorts().where(cohorts.c.name == name))
    if not found:
        raise NotFound("cohort", name)
    return found[0]


async def put(db: AsyncConnection, name: str, description: str) -> Cohort:
    row = {"name": name, "description": description, "created_at": datetime.now(UTC)}
    if not (await db.execute(insert_new(db, cohorts), row)).rowcount:
        await db.execute(update(cohorts).where(cohorts.c.name == name).values(description=description))
    return await get(db, name)


async def add_members(db: AsyncConnection, name: str, user_ids: Sequence[str]) -> Cohort:
    await _lock(db, name)
    await users.must_exist(db, *user_ids)
    await db.execute(update(people).where(people.c.id.in_(user_ids)).values(cohort=name))
    return await get(db, name)


async def remove_member(db: AsyncConnection, name: str, user_id: str) -> Cohort:
    await _lock(db, name)
    leave = update(people).where(people.c.id == user_id, people.c.cohort == name).values(cohort=None)
    if not (await db.execute(leave)).rowcount:
        raise NotFound(f"member of cohort {name!r},", user_id)
    return await get(db, name)


async def delete(db: AsyncConnection, name: str) -> None:
    await _lock(db, name)
    await advisory_lock(db, "claims")  # or one could take the adapter between here and the end
    key = f"cohort/{name}"
    await leases.release_adapter(db, key)
    await live_rows.take_off(db, key)
    await db.execute(update(people).where(people.c.cohort == name).values(cohort=None))
    await db.execute(cohorts.delete().where(cohorts.c.name == name))


async def members(db: AsyncConnection, name: str, limit: int | None) -> list[str]:
    await get(db, name)
    query = select(people.c.id).where(of(name)).order_by(people.c.id).limit(limit)
    return list((await db.scalars(query)).all())


def of(name: str) -> ColumnElement[bool]:
    """Condition on `users`: those of a cohort."""
    return people.c.cohort.is_(None) if name == EVERYONE else people.c.cohort == name


async def _lock(db: AsyncConnection, name: str) -> None:
    """Who joins and leaves cohorts does so one by one, so that none is left in a cohort that is being deleted."""
    if name == EVERYONE:
        raise EveryoneStays
    await advisory_lock(db, "cohorts")
    await get(db, name)


def _cohorts() -> Select[Any]:
    inside = or_(people.c.cohort == cohorts.c.name, and_(cohorts.c.name == EVERYONE, people.c.cohort.is_(None)))
    live = select(live_versions.c.version).where(live_versions.c.adapter == "cohort/" + cohorts.c.name)
    return select(
        cohorts,
        select(func.count(people.c.id)).where(inside).scalar_subquery().label("users"),
        live.scalar_subquery().label("live"),
    )


async def _load(db: AsyncConnection, query: Select[Any]) -> list[Cohort]:
    return [Cohort.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]
