"""Adapters: their numbered versions, and the pointer that says which one is live."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

from sqlalchemy import Select, and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Adapter, Version

from . import leases
from .db import alone, insert_new
from .errors import LeaseLost, NotFound, NothingToRollBack
from .states import version_state
from .tables import live_versions, version_numbers, versions


async def next_version(db: AsyncConnection, key: str) -> int:
    """Gives out a number, and with it an engine id, for good: a version that fails does not free them."""
    await alone(db, f"adapter {key}")
    newest = select(func.max(version_numbers.c.version)).where(version_numbers.c.adapter == key)
    number = (await db.scalar(newest) or 0) + 1
    await db.execute(version_numbers.insert(), {"adapter": key, "version": number, "created_at": datetime.now(UTC)})
    return number


async def engine_id(db: AsyncConnection, key: str, number: int) -> int:
    numbered = version_numbers.c.adapter == key, version_numbers.c.version == number
    id = await db.scalar(select(version_numbers.c.engine_id).where(*numbered))
    if id is None:
        raise NotFound("version", f"{key}@{number}")
    return int(id)


async def complete(db: AsyncConnection, lease_id: str, version: Version, now: datetime) -> Version:
    stored = await _stored(db, lease_id, version, refused=False)
    if stored is None:
        stored = await _store(db, lease_id, version, now, refused=False)
        await leases.end(db, lease_id, "completed", version.version)
        await leases.train(db, lease_id, version.version)
        await alone(db, f"adapter {version.adapter}")
        await _point(db, version.adapter, version.version)
    return await get(db, version.adapter, stored.version)


async def refuse(db: AsyncConnection, lease_id: str, version: Version, max_attempts: int, now: datetime) -> Version:
    stored = await _stored(db, lease_id, version, refused=True)
    if stored is None:
        stored = await _store(db, lease_id, version, now, refused=True)
        await leases.end(db, lease_id, "released")
        await leases.put_back(db, lease_id, max_attempts)
    return stored


async def _stored(db: AsyncConnection, lease_id: str, version: Version, *, refused: bool) -> Version | None:
    """What this lease brought already, if this call repeats that one."""
    await leases.locked(db, lease_id)
    of_lease = select(versions).where(versions.c.lease_id == lease_id)
    row = (await db.execute(of_lease)).mappings().one_or_none()
    if row is None:
        return None
    if (row["digest"], row["refused"]) != (version.digest, refused):
        outcome = "was refused" if row["refused"] else "is stored"
        raise LeaseLost(lease_id, f"its version {row['version']} {outcome}, with digest {row['digest']}")
    return await get(db, row["adapter"], row["version"])


async def _store(db: AsyncConnection, lease_id: str, version: Version, now: datetime, *, refused: bool) -> Version:
    lease = await leases.held(db, lease_id, now)
    if lease["adapter"] != version.adapter:
        raise LeaseLost(lease_id, f"it holds traces of {lease['adapter']}, not of {version.adapter}")
    row = version.model_dump(exclude={"state", "canary", "manifest"}) | {
        "lease_id": lease_id,
        "refused": refused,
        "canary": version.canary.model_dump(mode="json") if version.canary else None,
        "manifest": version.manifest.model_dump(mode="json"),
    }
    await db.execute(versions.insert(), row)
    return await get(db, version.adapter, version.version)


async def get(db: AsyncConnection, key: str, number: int) -> Version:
    found = await _load(db, _versions().where(versions.c.adapter == key, versions.c.version == number))
    if not found:
        raise NotFound("version", f"{key}@{number}")
    return found[0]


async def adapter(db: AsyncConnection, key: str) -> Adapter:
    """The adapter and its versions, oldest first. It exists from its first version on, also a refused one."""
    found = await _load(db, _versions().where(versions.c.adapter == key))
    if not found:
        raise NotFound("adapter", key)
    return _adapter(key, found)


async def adapters(db: AsyncConnection) -> list[Adapter]:
    grouped: dict[str, list[Version]] = defaultdict(list)
    for version in await _load(db, _versions()):
        grouped[version.adapter].append(version)
    return [_adapter(key, found) for key, found in grouped.items()]


async def live(db: AsyncConnection, key: str) -> Version | None:
    return next(iter(await _load(db, _versions().where(live_versions.c.adapter == key))), None)


async def set_live(db: AsyncConnection, key: str, number: int | None) -> Adapter:
    await alone(db, f"adapter {key}")
    await adapter(db, key)
    if number is not None:
        await get(db, key, number)
    await _point(db, key, number)
    return await adapter(db, key)


async def rollback(db: AsyncConnection, key: str) -> Adapter:
    await alone(db, f"adapter {key}")
    now = await adapter(db, key)
    earlier = [v.version for v in now.versions if v.state == "standby" and now.live and v.version < now.live]
    if not earlier:
        raise NothingToRollBack(key)
    await _point(db, key, earlier[-1])
    return await adapter(db, key)


async def known_versions(db: AsyncConnection) -> set[tuple[str, int]]:
    return {(key, number) for key, number in await db.execute(select(versions.c.adapter, versions.c.version))}


async def _point(db: AsyncConnection, key: str, number: int | None) -> None:
    mine = live_versions.c.adapter == key
    if number is None:
        await db.execute(live_versions.delete().where(mine))
    elif not (await db.execute(insert_new(db, live_versions), {"adapter": key, "version": number})).rowcount:
        await db.execute(live_versions.update().where(mine).values(version=number))


def _versions() -> Select[tuple[object, ...]]:
    is_live = and_(live_versions.c.adapter == versions.c.adapter, live_versions.c.version == versions.c.version)
    return (
        select(versions, live_versions.c.version.label("live"))
        .select_from(versions.outerjoin(live_versions, is_live))
        .order_by(versions.c.adapter, versions.c.version)
    )


async def _load(db: AsyncConnection, query: Select[tuple[object, ...]]) -> list[Version]:
    return [
        Version.model_validate(dict(row) | {"state": version_state(row["version"], row["live"], row["refused"])})
        for row in (await db.execute(query)).mappings()
    ]


def _adapter(key: str, found: list[Version]) -> Adapter:
    return Adapter(key=key, live=next((v.version for v in found if v.state == "live"), None), versions=found)
