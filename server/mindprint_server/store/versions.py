"""Adapters and their numbered versions, as they are stored. What answers is for `pointers` to say."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Adapter, Version
from mindprint_server.store.database import advisory_lock
from mindprint_server.store.exceptions import NotFound
from mindprint_server.store.states import version_state
from mindprint_server.store.tables import live_versions, version_numbers, versions


async def next_version(db: AsyncConnection, key: str) -> int:
    """Gives out a number, and with it an engine id, for good: a version that fails does not free them."""
    await advisory_lock(db, f"adapter {key}")
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


async def get(db: AsyncConnection, key: str, number: int) -> Version:
    found = await load(db, select_versions().where(versions.c.adapter == key, versions.c.version == number))
    if not found:
        raise NotFound("version", f"{key}@{number}")
    return found[0]


async def adapter(db: AsyncConnection, key: str) -> Adapter:
    """The adapter and its versions, oldest first. It exists from its first version on, also a refused one."""
    found = await load(db, select_versions().where(versions.c.adapter == key))
    if not found:
        raise NotFound("adapter", key)
    share = await db.scalar(select(live_versions.c.share).where(live_versions.c.adapter == key))
    return _adapter(key, found, share)


async def adapters(db: AsyncConnection) -> list[Adapter]:
    grouped: dict[str, list[Version]] = defaultdict(list)
    for version in await load(db, select_versions()):
        grouped[version.adapter].append(version)
    shares = {key: share for key, share in await db.execute(select(live_versions.c.adapter, live_versions.c.share))}
    return [_adapter(key, found, shares.get(key)) for key, found in grouped.items()]


async def known_versions(db: AsyncConnection, with_files: bool) -> set[tuple[str, int]]:
    query = select(versions.c.adapter, versions.c.version)
    if with_files:
        query = query.where(versions.c.files)
    return {(key, number) for key, number in await db.execute(query)}


def select_versions() -> Select[Any]:
    """Versions beside what their adapter's pointers say, by key and number."""
    pointers = live_versions.c.version.label("live"), live_versions.c.candidate
    return (
        select(versions, *pointers)
        .select_from(versions.outerjoin(live_versions, live_versions.c.adapter == versions.c.adapter))
        .order_by(versions.c.adapter, versions.c.version)
    )


async def load(db: AsyncConnection, query: Select[Any]) -> list[Version]:
    return [
        Version.model_validate(
            dict(row) | {"state": version_state(row["version"], row["live"], row["refused"], row["candidate"])}
        )
        for row in (await db.execute(query)).mappings()
    ]


def _adapter(key: str, found: list[Version], share: float | None) -> Adapter:
    numbers = {version.state: version.version for version in found}
    return Adapter(key=key, live=numbers.get("live"), candidate=numbers.get("candidate"), share=share, versions=found)
