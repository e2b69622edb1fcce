"""Engagements: what a user was asked and how the user answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Engagement, Ingested
from mindprint_server.store.database import Database, insert_new
from mindprint_server.store.erasing import check_may_write, lock_users
from mindprint_server.store.exceptions import EngagementConflict, RecordNotFound
from mindprint_server.store.tables import engagements, users
from mindprint_server.store.users import must_exist

FIELDS = [engagements.c[name] for name in Engagement.model_fields]
"""Columns of an `Engagement`."""


class EngagementRepository:
    """Stores and reads the engagements of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user_id: str, items: Sequence[Engagement]) -> Ingested:
        """Store all of these engagements, or none; create the user if needed.

        Returns:
            How many were new and how many were stored before with the same content.

        Raises:
            EngagementConflict: An id is known with other content, or is sent twice with different content.
            UserBeingErased: An erasure of the user is open. Beside a retention they are stored.
        """
        return await self._database.write(_add, user_id, items)

    async def get(self, user_id: str, engagement_id: str) -> Engagement:
        """Return one engagement of a user."""
        return await self._database.read(get, user_id, engagement_id)

    async def list_page(self, user_id: str, *, after: str | None = None, limit: int = 100) -> list[Engagement]:
        """List a user's engagements ordered by time, then id.

        Args:
            user_id: Whose engagements.
            after: Last id of the previous page; None starts at the beginning.
            limit: Maximum number of engagements.
        """
        return await self._database.read(_list_page, user_id, after, limit)

    async def list_history(
        self, user_id: str, *, before: datetime | None, exclude_id: str | None = None, limit: int | None
    ) -> list[Engagement]:
        """List a user's newest engagements before a time, oldest first. An unknown user has none.

        Args:
            user_id: Whose engagements.
            before: Only engagements strictly before this time; None: all.
            exclude_id: Id of an engagement that is left out.
            limit: Maximum number, the newest; None: all.
        """
        return await self._database.read(list_history, user_id, before, exclude_id, limit)

    async def count_history(self, user_id: str, *, before: datetime | None, exclude_id: str | None = None) -> int:
        """Count the engagements that `list_history` returns without a limit."""
        return await self._database.read(_count_history, user_id, before, exclude_id)

    async def count_all(self) -> int:
        """Count the tenant's engagements."""
        return await self._database.read(_count_all)

    async def count(self, user_id: str, *, until: datetime | None = None) -> int:
        """Count a user's engagements, up to and including the time `until`."""
        return await self._database.read(_count, user_id, until)


async def _count_all(db: AsyncConnection) -> int:
    return (await db.execute(select(func.count()).select_from(engagements))).scalar_one()


async def get(db: AsyncConnection, user_id: str, engagement_id: str) -> Engagement:
    """Return one engagement; raise RecordNotFound if the user or the engagement is unknown."""
    found = await _select(db, user_id, engagements.c.id == engagement_id)
    if not found:
        await must_exist(db, user_id)
        raise RecordNotFound("engagement", engagement_id)
    return found[0]


async def _add(db: AsyncConnection, user_id: str, items: Sequence[Engagement]) -> Ingested:
    sent: dict[str, Engagement] = {}
    for item in items:
        if sent.setdefault(item.id, item) != item:
            raise EngagementConflict(item.id)
    now = datetime.now(UTC)
    row = {"id": user_id, "created_at": now}
    await db.execute(insert_new(db, users), row)
    if user_id not in await lock_users(db, [user_id]):
        # An erasure that was just ending has removed the row that the insert met.
        await db.execute(insert_new(db, users), row)
    await check_may_write(db, [user_id], beside_retention=True)
    # Insert in the order of ids, so that two calls with the same engagements wait for each other and do not deadlock.
    rows = [sent[id].model_dump() | {"user_id": user_id, "created_at": now} for id in sorted(sent)]
    created: set[str] = set()
    if rows:
        created.update((await db.scalars(insert_new(db, engagements).returning(engagements.c.id), rows)).all())
    if known := sent.keys() - created:
        for stored in await _select(db, user_id, engagements.c.id.in_(known)):
            if stored != sent[stored.id]:
                raise EngagementConflict(stored.id)
    return Ingested(created=len(created), unchanged=len(items) - len(created))


async def _list_page(db: AsyncConnection, user_id: str, after: str | None, limit: int) -> list[Engagement]:
    await must_exist(db, user_id)
    time, id = engagements.c.occurred_at, engagements.c.id
    later = []
    if after is not None:
        last = await get(db, user_id, after)
        later = [or_(time > last.occurred_at, and_(time == last.occurred_at, id > last.id))]
    query = select(*FIELDS).where(engagements.c.user_id == user_id, *later).order_by(time, id).limit(limit)
    return [Engagement.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]


async def list_history(
    db: AsyncConnection, user_id: str, before: datetime | None, exclude_id: str | None, limit: int | None
) -> list[Engagement]:
    """List a user's newest engagements; see `EngagementRepository.list_history`."""
    newest_first = engagements.c.occurred_at.desc(), engagements.c.id.desc()
    query = select(*FIELDS).where(*_in_history(user_id, before, exclude_id)).order_by(*newest_first).limit(limit)
    rows = (await db.execute(query)).mappings().all()
    return [Engagement.model_validate(dict(row)) for row in reversed(rows)]


async def _count_history(db: AsyncConnection, user_id: str, before: datetime | None, exclude_id: str | None) -> int:
    query = select(func.count()).where(*_in_history(user_id, before, exclude_id))
    return (await db.execute(query)).scalar_one()


async def _count(db: AsyncConnection, user_id: str, until: datetime | None) -> int:
    query = select(func.count()).where(engagements.c.user_id == user_id)
    if until is not None:
        query = query.where(engagements.c.occurred_at <= until)
    return (await db.execute(query)).scalar_one()


def _in_history(user_id: str, before: datetime | None, exclude_id: str | None) -> list[ColumnElement[bool]]:
    conditions = [engagements.c.user_id == user_id]
    if before is not None:
        conditions.append(engagements.c.occurred_at < before)
    if exclude_id is not None:
        conditions.append(engagements.c.id != exclude_id)
    return conditions


async def _select(db: AsyncConnection, user_id: str, condition: ColumnElement[bool]) -> list[Engagement]:
    query = select(*FIELDS).where(engagements.c.user_id == user_id, condition)
    return [Engagement.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]
