"""Retention: the files of old versions may go, their rows stay."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Start, Version
from mindprint_server.store import versions as version_rows
from mindprint_server.store.database import advisory_lock
from mindprint_server.store.exceptions import FilesGone
from mindprint_server.store.tables import leases, versions


async def pin(db: AsyncConnection, key: str, number: int, pinned: bool) -> Version:
    await advisory_lock(db, f"adapter {key}")
    version = await version_rows.get(db, key, number)
    if pinned and not version.files:
        raise FilesGone(key, number)
    await _change(db, version, pinned=pinned)
    return await version_rows.get(db, key, number)


async def prunable(db: AsyncConnection, key: str, keep: int) -> list[int]:
    found = (await version_rows.adapter(db, key)).versions
    needed = await _starts(db)
    # Counted apart: a row of refused versions must not take the files of the last good ones.
    refused, good = ([v for v in found if (v.state == "refused") is bad] for bad in (True, False))
    old = [v for kind in (refused, good) for v in kind[: max(0, len(kind) - keep)]]
    return sorted(v.version for v in old if v.files and not _in_use(v, needed))


async def forget_files(db: AsyncConnection, key: str, number: int) -> bool:
    await advisory_lock(db, "claims")  # or one could begin with it between the look and the note
    await advisory_lock(db, f"adapter {key}")
    version = await version_rows.get(db, key, number)
    if _in_use(version, await _starts(db)):
        return False
    await _change(db, version, files=False)
    return True


def _in_use(version: Version, starts: set[tuple[str, int]]) -> bool:
    answers = version.state in ("live", "candidate")
    return answers or version.pinned or (version.adapter, version.version) in starts


async def _starts(db: AsyncConnection) -> set[tuple[str, int]]:
    """What the trainers who hold a lease begin with, so may still download."""
    query = select(leases.c.start).where(leases.c.state == "active", leases.c.start.is_not(None))
    starts = [Start.model_validate(start) for start in await db.scalars(query)]
    return {(start.adapter, start.version) for start in starts}


async def _change(db: AsyncConnection, version: Version, **values: bool) -> None:
    mine = versions.c.adapter == version.adapter, versions.c.version == version.version
    await db.execute(update(versions).where(*mine).values(**values))
