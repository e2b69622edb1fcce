"""The pointers: which version of an adapter is live, and which one is the candidate that answers a share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, Adapter, Check, Version
from mindprint_server.store import versions as version_rows
from mindprint_server.store.database import advisory_lock, insert_new
from mindprint_server.store.exceptions import AlreadyLive, FilesGone, NothingToRollBack, VersionRefused
from mindprint_server.store.tables import live_versions, users, versions


@dataclass(frozen=True)
class Pointers:
    """What answers for an adapter: `share` of the requests, more than 0 and less than 1, go to the candidate."""

    live: Version | None = None
    candidate: Version | None = None
    share: float | None = None


async def of(db: AsyncConnection, key: str) -> Pointers:
    pointed = or_(versions.c.version == live_versions.c.version, versions.c.version == live_versions.c.candidate)
    found = await version_rows.load(db, version_rows.select_versions().where(versions.c.adapter == key, pointed))
    by_state = {version.state: version for version in found}
    share = await db.scalar(select(live_versions.c.share).where(live_versions.c.adapter == key))
    return Pointers(by_state.get("live"), by_state.get("candidate"), share)


async def live(db: AsyncConnection, key: str) -> Version | None:
    return (await of(db, key)).live


async def serving(db: AsyncConnection, user_id: str) -> tuple[str, Pointers]:
    keys = [f"user/{user_id}", *await cohorts_of(db, user_id)]
    for key in keys:
        found = await of(db, key)
        if found.live or found.candidate:
            break
    return key, found


async def cohorts_of(db: AsyncConnection, user_id: str) -> list[str]:
    """The adapters that stand in for a user's own, nearest first."""
    cohort = await db.scalar(select(users.c.cohort).where(users.c.id == user_id))
    return [f"cohort/{name}" for name in dict.fromkeys((cohort or EVERYONE, EVERYONE))]


async def publish(db: AsyncConnection, key: str, number: int, candidate_share: float | None) -> None:
    """A new version goes live, or is the candidate where another is live. A candidate before it is one no more."""
    await advisory_lock(db, f"adapter {key}")
    if candidate_share and await live(db, key):
        await _point(db, key, candidate=number, share=candidate_share)
    else:
        await _point(db, key, version=number, candidate=None, share=None)


async def set_live(db: AsyncConnection, key: str, number: int | None) -> Adapter:
    await advisory_lock(db, f"adapter {key}")
    now = await version_rows.adapter(db, key)
    if number is None:
        await take_off(db, key)
    else:
        if not (await version_rows.get(db, key, number)).files:
            raise FilesGone(key, number)
        await _go_live(db, now, number)
    return await version_rows.adapter(db, key)


async def rollback(db: AsyncConnection, key: str) -> Adapter:
    await advisory_lock(db, f"adapter {key}")
    now = await version_rows.adapter(db, key)
    earlier = _earlier(now)
    if not earlier:
        raise NothingToRollBack(key)
    with_files = [version.version for version in earlier if version.files]
    if not with_files:
        raise FilesGone(key, earlier[-1].version)
    await _go_live(db, now, with_files[-1])
    return await version_rows.adapter(db, key)


async def withdraw(db: AsyncConnection, key: str, number: int, check: Check) -> Adapter:
    await advisory_lock(db, f"adapter {key}")
    now = await version_rows.adapter(db, key)
    version = await version_rows.get(db, key, number)
    if version.state == "refused":
        return now
    checks = [each.model_dump() for each in (*version.checks, check)]
    mine = versions.c.adapter == key, versions.c.version == number
    await db.execute(update(versions).where(*mine).values(refused=True, checks=checks))
    if version.state == "live":
        with_files = [each.version for each in _earlier(now) if each.files]
        await _point(db, key, version=with_files[-1] if with_files else None)
    elif version.state == "candidate":
        await _point(db, key, candidate=None, share=None)
    return await version_rows.adapter(db, key)


async def release_candidate(db: AsyncConnection, key: str, number: int | None, share: float) -> Adapter:
    await advisory_lock(db, f"adapter {key}")
    await version_rows.adapter(db, key)
    if number is None:
        await _point(db, key, candidate=None, share=None)
    else:
        version = await version_rows.get(db, key, number)
        if not version.files:
            raise FilesGone(key, number)
        if version.state == "refused":
            raise VersionRefused(key, number)
        if version.state == "live":
            raise AlreadyLive(key, number)
        await _point(db, key, candidate=number, share=share)
    return await version_rows.adapter(db, key)


async def take_off(db: AsyncConnection, key: str) -> None:
    """Neither live nor candidate: the adapter answers nothing."""
    await advisory_lock(db, f"adapter {key}")
    await _point(db, key, version=None, candidate=None, share=None)


def _earlier(now: Adapter) -> list[Version]:
    """Versions to fall back to, the best last: accepted, and before the live one."""
    return [v for v in now.versions if v.state == "standby" and now.live and v.version < now.live]


async def _go_live(db: AsyncConnection, now: Adapter, number: int) -> None:
    """Any candidate stays one, unless it is this version."""
    ended: dict[str, Any] = {"candidate": None, "share": None} if now.candidate == number else {}
    await _point(db, now.key, version=number, **ended)


async def _point(db: AsyncConnection, key: str, **to: Any) -> None:
    await db.execute(insert_new(db, live_versions), {"adapter": key})
    await db.execute(update(live_versions).where(live_versions.c.adapter == key).values(**to))
