"""Users, their engagements, and the profiles written from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, Engagement, Ingested, Profile, User
from mindprint_server.store.database import advisory_lock, insert_new
from mindprint_server.store.exceptions import EngagementConflict, NotFound
from mindprint_server.store.tables import engagements, live_versions, profiles, users

FIELDS = [engagements.c[name] for name in Engagement.model_fields]


async def add_engagements(db: AsyncConnection, user_id: str, items: Sequence[Engagement]) -> Ingested:
    sent: dict[str, Engagement] = {}
    for item in items:
        if sent.setdefault(item.id, item) != item:
            raise EngagementConflict(item.id)
    now = datetime.now(UTC)
    await db.execute(insert_new(db, users), {"id": user_id, "created_at": now})
    # In the order of their ids, so that two calls with the same engagements wait for each other instead of both.
    rows = [sent[id].model_dump() | {"user_id": user_id, "created_at": now} for id in sorted(sent)]
    created: set[str] = set()
    if rows:
        created.update((await db.scalars(insert_new(db, engagements).returning(engagements.c.id), rows)).all())
    if known := sent.keys() - created:
        for stored in await _of(db, user_id, engagements.c.id.in_(known)):
            if stored != sent[stored.id]:
                raise EngagementConflict(stored.id)
    return Ingested(created=len(created), unchanged=len(items) - len(created))


async def get(db: AsyncConnection, user_id: str) -> User:
    row = (await db.execute(_users().where(users.c.id == user_id))).mappings().one_or_none()
    if row is None:
        raise NotFound("user", user_id)
    return User.model_validate(dict(row))


async def page(db: AsyncConnection, after: str | None, limit: int) -> list[User]:
    query = _users().order_by(users.c.id).limit(limit)
    if after is not None:
        query = query.where(users.c.id > after)
    return [User.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]


async def must_exist(db: AsyncConnection, *user_ids: str) -> None:
    known = set((await db.scalars(select(users.c.id).where(users.c.id.in_(user_ids)))).all())
    for id in user_ids:
        if id not in known:
            raise NotFound("user", id)


def _users() -> Select[tuple[object, ...]]:
    of_user = users.c.id
    count = select(func.count()).where(engagements.c.user_id == of_user)
    profile = select(func.max(profiles.c.version)).where(profiles.c.user_id == of_user)
    live = select(live_versions.c.version).where(live_versions.c.adapter == "user/" + of_user)
    return select(
        users.c.id,
        users.c.created_at,
        func.coalesce(users.c.cohort, EVERYONE).label("cohort"),
        count.scalar_subquery().label("engagements"),
        profile.scalar_subquery().label("profile_version"),
        live.scalar_subquery().label("live_version"),
    )


async def engagement(db: AsyncConnection, user_id: str, engagement_id: str) -> Engagement:
    found = await _of(db, user_id, engagements.c.id == engagement_id)
    if not found:
        await must_exist(db, user_id)
        raise NotFound("engagement", engagement_id)
    return found[0]


async def engagement_page(db: AsyncConnection, user_id: str, after: str | None, limit: int) -> list[Engagement]:
    await must_exist(db, user_id)
    time, id = engagements.c.occurred_at, engagements.c.id
    later = []
    if after is not None:
        last = await engagement(db, user_id, after)
        later = [or_(time > last.occurred_at, and_(time == last.occurred_at, id > last.id))]
    query = select(*FIELDS).where(engagements.c.user_id == user_id, *later).order_by(time, id).limit(limit)
    return [Engagement.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]


async def history(
    db: AsyncConnection, user_id: str, before: datetime | None, not_id: str | None, limit: int | None
) -> list[Engagement]:
    newest_first = engagements.c.occurred_at.desc(), engagements.c.id.desc()
    query = select(*FIELDS).where(*_past(user_id, before, not_id)).order_by(*newest_first).limit(limit)
    rows = (await db.execute(query)).mappings().all()
    return [Engagement.model_validate(dict(row)) for row in reversed(rows)]


async def history_length(db: AsyncConnection, user_id: str, before: datetime | None, not_id: str | None) -> int:
    query = select(func.count()).where(*_past(user_id, before, not_id))
    return (await db.execute(query)).scalar_one()


async def neighbour_pool(db: AsyncConnection, user_id: str, limit: int) -> list[str]:
    """Those whose ids follow, then those from the beginning: every user has others, and no query reads them all."""
    if limit <= 0:
        return []
    some = select(engagements.c.user_id).where(engagements.c.user_id == users.c.id).exists()
    query = select(users.c.id).where(some).order_by(users.c.id).limit(limit)
    later = list((await db.scalars(query.where(users.c.id > user_id))).all())
    earlier = list((await db.scalars(query.where(users.c.id < user_id))).all())
    return (later + earlier)[:limit]


def _past(user_id: str, before: datetime | None, not_id: str | None) -> list[ColumnElement[bool]]:
    conditions = [engagements.c.user_id == user_id]
    if before is not None:
        conditions.append(engagements.c.occurred_at < before)
    if not_id is not None:
        conditions.append(engagements.c.id != not_id)
    return conditions


async def engagement_count(db: AsyncConnection, user_id: str, until: datetime | None) -> int:
    query = select(func.count()).where(engagements.c.user_id == user_id)
    if until is not None:
        query = query.where(engagements.c.occurred_at <= until)
    return (await db.execute(query)).scalar_one()


async def _of(db: AsyncConnection, user_id: str, condition: ColumnElement[bool]) -> list[Engagement]:
    query = select(*FIELDS).where(engagements.c.user_id == user_id, condition)
    return [Engagement.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]


async def add_profile(db: AsyncConnection, profile: Profile) -> Profile:
    await must_exist(db, profile.user_id)
    await advisory_lock(db, f"profiles of {profile.user_id}")
    newest = select(func.max(profiles.c.version)).where(profiles.c.user_id == profile.user_id)
    stored = profile.model_copy(update={"version": (await db.scalar(newest) or 0) + 1})
    await db.execute(profiles.insert(), stored.model_dump())
    return stored


async def profile(db: AsyncConnection, user_id: str, before: datetime | None) -> Profile | None:
    query = select(profiles).where(profiles.c.user_id == user_id).order_by(profiles.c.version.desc()).limit(1)
    if before is not None:
        query = query.where(profiles.c.covers_until < before)
    row = (await db.execute(query)).mappings().one_or_none()
    return None if row is None else Profile.model_validate(dict(row))


async def profiles_of(db: AsyncConnection, user_id: str) -> list[Profile]:
    query = select(profiles).where(profiles.c.user_id == user_id).order_by(profiles.c.version)
    return [Profile.model_validate(dict(row)) for row in (await db.execute(query)).mappings()]
