"""Histories: what a user's memory is made of, read in one snapshot, and a stamp that says whether it changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Engagement, Profile
from mindprint_server.store import engagements as engagement_rows
from mindprint_server.store import profiles as profile_rows
from mindprint_server.store.database import Database
from mindprint_server.store.tables import engagements, erasures, profiles, users


@dataclass(frozen=True)
class HistoryStamp:
    """What changes with each change of a user's history.

    Engagements and profiles are added or erased, never changed. While an erasure is open rows are only erased, and else
    they are only added. So the rows behind two equal stamps are the same.
    """

    engagements: int
    """Number of the user's engagements."""
    profile: int
    """Newest version of the user's profile; 0 without one."""
    erasures: int
    """Number of erasures of the user's rows that were ever requested, those of retention too."""
    erasures_done: int
    """How many of them have ended."""

    def has_only_grown(self, former: HistoryStamp) -> bool:
        """Return whether rows were only added since a former stamp."""
        return self.erasures == self.erasures_done == former.erasures == former.erasures_done


@dataclass(frozen=True)
class HistoryRows:
    """Rows of a history in one snapshot."""

    stamp: HistoryStamp
    engagements: Sequence[Engagement]
    """Oldest first."""
    profiles: Sequence[Profile]
    """Ordered by version."""


class HistoryRepository:
    """Reads histories."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_stamp(self, user_id: str) -> HistoryStamp | None:
        """Return the stamp of a user's history; None if there is no such user."""
        return await self._database.read(_get_stamp, user_id)

    async def read_all(self, user_id: str) -> HistoryRows | None:
        """Return all engagements and profiles of a user; None if there is no such user."""
        return await self._database.read(_read, user_id, None)

    async def read_newest(self, user_id: str, limit: int) -> HistoryRows | None:
        """Return a user's newest engagements, at most `limit`; None if there is no such user.

        If these are all, all profiles are with them, and else the newest one.
        """
        return await self._database.read(_read, user_id, limit)

    async def read_after(self, user_id: str, last: Engagement | None, profile: int) -> HistoryRows | None:
        """Return what stands after an engagement in a user's history; None if there is no such user.

        Args:
            user_id: Whose history.
            last: Only engagements that stand after this one in the order of time, then id; None: all.
            profile: Only profiles newer than this version.
        """
        return await self._database.read(_read_after, user_id, last, profile)


def _stamp_query(user_id: str) -> Select[Any]:
    count = select(func.count()).where(engagements.c.user_id == users.c.id)
    newest = select(func.coalesce(func.max(profiles.c.version), 0)).where(profiles.c.user_id == users.c.id)
    requested = select(func.count()).where(erasures.c.user_id == users.c.id)
    done = requested.where(erasures.c.finished_at.is_not(None))
    counts = (query.scalar_subquery() for query in (count, newest, requested, done))
    return select(*counts).where(users.c.id == user_id)


async def _get_stamp(db: AsyncConnection, user_id: str) -> HistoryStamp | None:
    row = (await db.execute(_stamp_query(user_id))).one_or_none()
    return None if row is None else HistoryStamp(*row)


async def _read(db: AsyncConnection, user_id: str, limit: int | None) -> HistoryRows | None:
    if (stamp := await _get_stamp(db, user_id)) is None:
        return None
    found = await engagement_rows.list_history(db, user_id, None, None, limit)
    if limit is None or stamp.engagements <= limit:
        return HistoryRows(stamp, found, await profile_rows.list_versions(db, user_id))
    profile = await profile_rows.get_newest(db, user_id, None)
    return HistoryRows(stamp, found, [] if profile is None else [profile])


async def _read_after(db: AsyncConnection, user_id: str, last: Engagement | None, profile: int) -> HistoryRows | None:
    if (stamp := await _get_stamp(db, user_id)) is None:
        return None
    query = select(*engagement_rows.FIELDS).where(engagements.c.user_id == user_id)
    time, id = engagements.c.occurred_at, engagements.c.id
    if last is not None:
        query = query.where(or_(time > last.occurred_at, and_(time == last.occurred_at, id > last.id)))
    rows = (await db.execute(query.order_by(time, id))).mappings()
    newer = select(profiles).where(profiles.c.user_id == user_id, profiles.c.version > profile)
    written = (await db.execute(newer.order_by(profiles.c.version))).mappings()
    return HistoryRows(
        stamp,
        [Engagement.model_validate(dict(row)) for row in rows],
        [Profile.model_validate(dict(row)) for row in written],
    )
