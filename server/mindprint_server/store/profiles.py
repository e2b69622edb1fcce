"""Profiles: numbered summaries of a user's engagements, written by the base model."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Profile
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.tables import profiles
from mindprint_server.store.users import must_exist


class ProfileRepository:
    """Stores and reads the profiles of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, profile: Profile) -> Profile:
        """Store a profile as the user's next version; its own version number is ignored."""
        return await self._database.write(_add, profile)

    async def list_versions(self, user_id: str) -> list[Profile]:
        """List all profiles of a user ordered by version. An unknown user has none."""
        return await self._database.read(_list_versions, user_id)

    async def get_newest(self, user_id: str, *, before: datetime | None = None) -> Profile | None:
        """Return the user's newest profile, or None.

        Args:
            user_id: Whose profile.
            before: Only profiles whose newest covered engagement is strictly before this time; None: all.
        """
        return await self._database.read(_get_newest, user_id, before)


async def _add(db: AsyncConnection, profile: Profile) -> Profile:
    await must_exist(db, profile.user_id)
    await advisory_lock(db, f"profiles of {profile.user_id}")
    newest = select(func.max(profiles.c.version)).where(profiles.c.user_id == profile.user_id)
    stored = profile.model_copy(update={"version": (await db.scalar(newest) or 0) + 1})
    await db.execute(profiles.insert(), stored.model_dump())
    return stored


async def _list_versions(db: AsyncConnection, user_id: str) -> list[Profile]:
    query = select(profiles).where(profiles.c.user_id == user_id).order_by(profiles.c.version)
    return [Profile.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]


async def _get_newest(db: AsyncConnection, user_id: str, before: datetime | None) -> Profile | None:
    query = select(profiles).where(profiles.c.user_id == user_id).order_by(profiles.c.version.desc()).limit(1)
    if before is not None:
        query = query.where(profiles.c.covers_until < before)
    row = (await db.execute(query)).mappings().one_or_none()
    return None if row is None else Profile.model_validate(dict(row))
