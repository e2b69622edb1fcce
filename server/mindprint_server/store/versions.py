"""Versions: the numbered results of training an adapter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import Field
from sqlalchemy import Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Version
from mindprint.types.keys import VersionRef
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.exceptions import RecordNotFound
from mindprint_server.store.states import version_state
from mindprint_server.store.tables import live_versions, publications, version_numbers, versions
from mindprint_server.tenancy import in_all_tenants


class AllocatedVersion(NamedTuple):
    """A version number of an adapter, with its id in the engine."""

    version: int
    engine_id: int


class VersionRecord(Version):
    """A version with what only the server needs to know about it."""

    engine_id: int = Field(exclude=True)
    """Identifies the version in the engine: positive and unique over all adapters. Never part of a reply."""
    artifact: str | None = Field(None, exclude=True)
    """SHA-256 hex over the files and `engine_id`, under which they are stored. None for a version that an older release
    stored and that was not imported yet. Never part of a reply."""


class VersionRepository:
    """Reads versions and allocates their numbers. `LiveVersionRepository` says which of them answers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def allocate(self, key: str) -> AllocatedVersion:
        """Allocate the next version number of an adapter; no other call gets the same number or engine id."""
        return await self._database.write(_allocate, key)

    async def get(self, key: str, version: int) -> VersionRecord:
        """Return a version of an adapter."""
        return await self._database.read(get, key, version)

    async def list_artifacts(self) -> set[str]:
        """Return the digests of all artifacts that a version with files, or an open publication, names.

        They are of all tenants.
        """
        with in_all_tenants():
            return await self._database.read(_list_artifacts)

    async def list_without_artifact(self) -> list[VersionRecord]:
        """List versions that have files, but in the folders of an older release."""
        return await self._database.read(_list_without_artifact)

    async def set_artifact(self, version: VersionRecord, digest: str) -> None:
        """Store under which digest the files of a version are from now on. A version that has one keeps it."""
        await self._database.write(_set_artifact, version, digest)


async def _allocate(db: AsyncConnection, key: str) -> AllocatedVersion:
    # The number and its engine id are never used again, also if the version fails.
    await advisory_lock(db, f"adapter {key}")
    newest = select(func.max(version_numbers.c.version)).where(version_numbers.c.adapter == key)
    number = (await db.scalar(newest) or 0) + 1
    row = {"adapter": key, "version": number, "created_at": datetime.now(UTC)}
    engine_id = await db.scalar(version_numbers.insert().values(row).returning(version_numbers.c.engine_id))
    return AllocatedVersion(number, int(engine_id))


async def get(db: AsyncConnection, key: str, number: int) -> VersionRecord:
    """Return a version of an adapter; raise RecordNotFound if it is not stored."""
    found = await load(db, select_versions().where(versions.c.adapter == key, versions.c.version == number))
    if not found:
        raise RecordNotFound("version", VersionRef.of(key, number))
    return found[0]


async def _list_artifacts(db: AsyncConnection) -> set[str]:
    of_versions = select(versions.c.artifact).where(versions.c.files, versions.c.artifact.is_not(None))
    uploaded = select(publications.c.artifact).where(publications.c.artifact.is_not(None))
    return {*await db.scalars(of_versions), *await db.scalars(uploaded)}


async def _list_without_artifact(db: AsyncConnection) -> list[VersionRecord]:
    return await load(db, select_versions().where(versions.c.files, versions.c.artifact.is_(None)))


async def _set_artifact(db: AsyncConnection, version: VersionRecord, digest: str) -> None:
    mine = versions.c.adapter == version.adapter, versions.c.version == version.version
    await db.execute(update(versions).where(*mine, versions.c.artifact.is_(None)).values(artifact=digest))


def select_versions() -> Select[Any]:
    """Select versions with their engine ids and the pointers of their adapters, ordered by key and number."""
    same_version = (version_numbers.c.adapter == versions.c.adapter) & (version_numbers.c.version == versions.c.version)
    numbered = versions.join(version_numbers, same_version)
    pointers = live_versions.c.version.label("live"), live_versions.c.canary
    return (
        select(versions, version_numbers.c.engine_id, *pointers)
        .select_from(numbered.outerjoin(live_versions, live_versions.c.adapter == versions.c.adapter))
        .order_by(versions.c.adapter, versions.c.version)
    )


async def load(db: AsyncConnection, query: Select[Any]) -> list[VersionRecord]:
    """Return the versions that a query made by `select_versions` finds."""
    return [
        VersionRecord.model_validate(
            dict(row) | {"state": version_state(row["version"], row["live"], row["refused"], row["canary"])}
        )
        for row in (await db.execute(query)).mappings()
    ]
