"""Versions: the numbered results of training an adapter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Version
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.exceptions import NotFound
from mindprint_server.store.states import version_state
from mindprint_server.store.tables import live_versions, version_numbers, versions


class VersionRepository:
    """Reads versions and gives out their numbers. `LiveVersionRepository` says which of them answers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def allocate_number(self, key: str) -> int:
        """Allocate the next version number of an adapter; no other call gets the same one."""
        return await self._database.write(_allocate_number, key)

    async def get_engine_id(self, key: str, version: int) -> int:
        """Return the engine's id of a version: positive and unique over all adapters."""
        return await self._database.read(_get_engine_id, key, version)

    async def get(self, key: str, version: int) -> Version:
        """Return a version of an adapter."""
        return await self._database.read(get, key, version)

    async def list_refs(self, *, with_files: bool = False) -> set[tuple[str, int]]:
        """Return (adapter key, number) of all stored versions, or of those that have files."""
        return await self._database.read(_list_refs, with_files)


async def _allocate_number(db: AsyncConnection, key: str) -> int:
    # The number and its engine id are never used again, also if the version fails.
    await advisory_lock(db, f"adapter {key}")
    newest = select(func.max(version_numbers.c.version)).where(version_numbers.c.adapter == key)
    number = (await db.scalar(newest) or 0) + 1
    await db.execute(version_numbers.insert(), {"adapter": key, "version": number, "created_at": datetime.now(UTC)})
    return number


async def _get_engine_id(db: AsyncConnection, key: str, number: int) -> int:
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


async def _list_refs(db: AsyncConnection, with_files: bool) -> set[tuple[str, int]]:
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
