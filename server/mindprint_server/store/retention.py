"""Retention: files of old versions are removed, their rows stay."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Start, Version
from mindprint_server.store import adapters
from mindprint_server.store import versions as version_rows
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.exceptions import FilesGone
from mindprint_server.store.tables import leases, versions
from mindprint_server.store.versions import VersionRecord


class RetentionRepository:
    """Decides which versions keep their files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pin(self, key: str, version: int, pinned: bool) -> VersionRecord:
        """Pin or unpin a version; a pinned version keeps its files.

        Raises:
            FilesGone: The files were removed before.
        """
        return await self._database.write(_pin, key, version, pinned)

    async def list_prunable(self, key: str, keep: int) -> list[int]:
        """List versions of an adapter whose files may be removed, oldest first.

        A version is listed if nothing needs it and it is neither among the newest `keep` accepted versions nor among
        the newest `keep` refused ones.
        """
        return await self._database.read(_list_prunable, key, keep)

    async def mark_files_removed(self, key: str, version: int) -> bool:
        """Mark that a version has no files from now on. The caller removes them afterwards.

        Returns:
            False if nothing changed and the files must stay: the version is live, the canary, pinned, or an active
            lease starts from it.
        """
        return await self._database.write(_mark_files_removed, key, version)


async def _pin(db: AsyncConnection, key: str, number: int, pinned: bool) -> VersionRecord:
    await advisory_lock(db, f"adapter {key}")
    version = await version_rows.get(db, key, number)
    if pinned and not version.files:
        raise FilesGone(key, number)
    await _change(db, version, pinned=pinned)
    return await version_rows.get(db, key, number)


async def _list_prunable(db: AsyncConnection, key: str, keep: int) -> list[int]:
    found = (await adapters.get(db, key)).versions
    needed = await _starts(db)
    # Count refused and accepted versions apart: many refused ones must not remove the files of the last good ones.
    refused = [version for version in found if version.state == "refused"]
    accepted = [version for version in found if version.state != "refused"]
    old = [version for group in (refused, accepted) for version in group[: max(0, len(group) - keep)]]
    return sorted(version.version for version in old if version.files and not _in_use(version, needed))


async def _mark_files_removed(db: AsyncConnection, key: str, number: int) -> bool:
    # Without this lock a claim could choose the version as its start between the check and the update.
    await advisory_lock(db, "claims")
    await advisory_lock(db, f"adapter {key}")
    version = await version_rows.get(db, key, number)
    if _in_use(version, await _starts(db)):
        return False
    await _change(db, version, files=False)
    return True


def _in_use(version: Version, starts: set[tuple[str, int]]) -> bool:
    answers = version.state in ("live", "canary")
    return answers or version.pinned or (version.adapter, version.version) in starts


async def _starts(db: AsyncConnection) -> set[tuple[str, int]]:
    """Return the versions that active leases start from: their trainers may still download them."""
    query = select(leases.c.start).where(leases.c.state == "active", leases.c.start.is_not(None))
    starts = [Start.model_validate(start) for start in await db.scalars(query)]
    return {(start.adapter, start.version) for start in starts}


async def _change(db: AsyncConnection, version: Version, **values: bool) -> None:
    mine = versions.c.adapter == version.adapter, versions.c.version == version.version
    await db.execute(update(versions).where(*mine).values(**values))
