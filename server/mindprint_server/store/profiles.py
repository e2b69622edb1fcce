"""Profiles: numbered summaries of a user's engagements, written by the base model."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Profile
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.erasing import check_may_write
from mindprint_server.store.tables import profiles
from mindprint_server.store.users import must_exist


class ProfileRepository:
    """Stores and reads the profiles of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, profile: Profile, *, only_if_new: bool = False, read_epoch: int | None = None) -> Profile:
        """Store a profile as the user's next version; its own version number is ignored.

        Args:
            profile: The profile.
            only_if_new: Return the newest profile instead if it covers as many engagements: another server wrote it.
            read_epoch: The tenant's erasure epoch before the history was read that it summarises.

        Raises:
            UserBeingErased: Data of the user is being erased, or was since `read_epoch`.
        """
        return await self._database.write(_add, profile, only_if_new, read_epoch)

    async def list_versions(self, user_id: str) -> list[Profile]:
        """List all profiles of a user ordered by version. An unknown user has none."""
        return await self._database.read(list_versions, user_id)

    async def get_newest(self, user_id: str, *, before: datetime | None = None) -> Profile | None:
        """Return the user's newest profile, or None.

        Args:
            user_id: Whose profile.
            before: Only profiles whose newest covered engagement is strictly before this time; None: all.
        """
        return await self._database.read(get_newest, user_id, before)


async def _add(db: AsyncConnection, profile: Profile, only_if_new: bool, read_epoch: int | None) -> Profile:
    await must_exist(db, profile.user_id)
    await check_may_write(db, [profile.user_id], read_epoch)
    await advisory_lock(db, f"profiles of {profile.user_id}")
    newest = await get_newest(db, profile.user_id, None)
    if only_if_new and newest is not None and newest.covers >= profile.covers:
        return newest
    stored = profile.model_copy(update={"version": newest.version + 1 if newest else 1})
    await db.execute(profiles.insert(), stored.model_dump())
    return stored


async def list_versions(db: AsyncConnection, user_id: str) -> list[Profile]:
    """List a user's profiles; see `ProfileRepository.list_versions`."""
    query = select(profiles).where(profiles.c.user_id == user_id).order_by(profiles.c.version)
    return [Profile.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]


async def get_newest(db: AsyncConnection, user_id: str, before: datetime | None) -> Profile | None:
    """Return a user's newest profile; see `ProfileRepository.get_newest`."""
    query = select(profiles).where(profiles.c.user_id == user_id).order_by(profiles.c.version.desc()).limit(1)
    if before is not None:
        query = query.where(profiles.c.covers_until < before)
    row = (await db.execute(query)).mappings().one_or_none()
    return None if row is None else Profile.model_validate(dict(row))
