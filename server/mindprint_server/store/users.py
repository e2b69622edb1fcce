"""Users."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, User
from mindprint.types.keys import USER_PREFIX
from mindprint_server.store.database import Database
from mindprint_server.store.exceptions import RecordNotFound
from mindprint_server.store.tables import engagements, live_versions, profiles, users


class UserRepository:
    """Reads users. A user is created by the first engagements that are stored for it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_id: str) -> User:
        """Return a user with its counts."""
        return await self._database.read(_get, user_id)

    async def list_page(self, *, after: str | None = None, limit: int = 100) -> list[User]:
        """List users ordered by id.

        Args:
            after: Last id of the previous page; None starts at the beginning.
            limit: Maximum number of users.
        """
        return await self._database.read(_list_page, after, limit)

    async def list_others(self, user_id: str, *, limit: int) -> list[str]:
        """List ids of other users who have engagements; the same ids at every call.

        Args:
            user_id: The user who is left out.
            limit: Maximum number of ids.
        """
        return await self._database.read(_list_others, user_id, limit)


async def must_exist(db: AsyncConnection, *user_ids: str) -> None:
    """Raise RecordNotFound for the first of these users that is not stored."""
    known = set((await db.scalars(select(users.c.id).where(users.c.id.in_(user_ids)))).all())
    for user_id in user_ids:
        if user_id not in known:
            raise RecordNotFound("user", user_id)


def in_cohort(name: str) -> ColumnElement[bool]:
    """Return the condition on `users` that selects the members of a cohort."""
    return users.c.cohort.is_(None) if name == EVERYONE else users.c.cohort == name


async def _get(db: AsyncConnection, user_id: str) -> User:
    row = (await db.execute(_users().where(users.c.id == user_id))).mappings().one_or_none()
    if row is None:
        raise RecordNotFound("user", user_id)
    return User.model_validate(dict(row))


async def _list_page(db: AsyncConnection, after: str | None, limit: int) -> list[User]:
    query = _users().order_by(users.c.id).limit(limit)
    if after is not None:
        query = query.where(users.c.id > after)
    return [User.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]


async def _list_others(db: AsyncConnection, user_id: str, limit: int) -> list[str]:
    # Take the ids after this user's, then those from the beginning: users get different others, and no query reads all.
    if limit <= 0:
        return []
    has_engagements = select(engagements.c.user_id).where(engagements.c.user_id == users.c.id).exists()
    query = select(users.c.id).where(has_engagements).order_by(users.c.id).limit(limit)
    later = list((await db.scalars(query.where(users.c.id > user_id))).all())
    earlier = list((await db.scalars(query.where(users.c.id < user_id))).all())
    return (later + earlier)[:limit]


def _users() -> Select[Any]:
    count = select(func.count()).where(engagements.c.user_id == users.c.id)
    profile = select(func.max(profiles.c.version)).where(profiles.c.user_id == users.c.id)
    live = select(live_versions.c.version).where(live_versions.c.adapter == USER_PREFIX + users.c.id)
    return select(
        users.c.id,
        users.c.created_at,
        func.coalesce(users.c.cohort, EVERYONE).label("cohort"),
        count.scalar_subquery().label("engagements"),
        profile.scalar_subquery().label("profile_version"),
        live.scalar_subquery().label("live_version"),
    )
