"""Adapters: a key, its versions, and what answers for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import CompoundSelect, func, select, union
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Adapter, Version
from mindprint_server.store import versions
from mindprint_server.store.database import Database
from mindprint_server.store.exceptions import RecordNotFound
from mindprint_server.store.states import OPEN_PUBLICATION_STATES
from mindprint_server.store.tables import live_versions, publications
from mindprint_server.store.tables import versions as version_table


class AdapterRepository:
    """Reads adapters. An adapter exists from its first version on, also if that was refused."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> Adapter:
        """Return an adapter with its versions, oldest first."""
        return await self._database.read(get, key)

    async def list_page(self, *, after: str | None = None, limit: int = 100) -> list[Adapter]:
        """List adapters with their versions, ordered by key.

        Args:
            after: Last key of the previous page; None starts at the beginning.
            limit: Maximum number of adapters.
        """
        return await self._database.read(_list_page, after, limit)

    async def count(self) -> int:
        """Count the adapters that have a version, or an upload whose publication has not ended."""
        return await self._database.read(_count)

    async def exists(self, key: str) -> bool:
        """Return whether an adapter has a version, or an upload whose publication has not ended."""
        return await self._database.read(_exists, key)


async def get(db: AsyncConnection, key: str) -> Adapter:
    """Return an adapter; raise RecordNotFound if it has no version."""
    found = await versions.load(db, versions.select_versions().where(version_table.c.adapter == key))
    if not found:
        raise RecordNotFound("adapter", key)
    share = await db.scalar(select(live_versions.c.canary_share).where(live_versions.c.adapter == key))
    return _adapter(key, found, share)


async def _count(db: AsyncConnection) -> int:
    return (await db.execute(select(func.count()).select_from(_select_keys().subquery()))).scalar_one()


async def _exists(db: AsyncConnection, key: str) -> bool:
    keys = _select_keys().subquery()
    return await db.scalar(select(keys.c.adapter).where(keys.c.adapter == key)) is not None


def _select_keys() -> CompoundSelect[tuple[str]]:
    """Select the keys of adapters that have a version or an open publication, each once."""
    open_ones = publications.c.state.in_(OPEN_PUBLICATION_STATES)
    return union(select(version_table.c.adapter), select(publications.c.adapter).where(open_ones))


async def _list_page(db: AsyncConnection, after: str | None, limit: int) -> list[Adapter]:
    key = version_table.c.adapter
    query = select(key).where(key > (after or "")).distinct().order_by(key).limit(limit)
    if not (keys := (await db.scalars(query)).all()):
        return []
    grouped: dict[str, list[Version]] = defaultdict(list)
    for version in await versions.load(db, versions.select_versions().where(key.between(keys[0], keys[-1]))):
        grouped[version.adapter].append(version)
    pointers = select(live_versions.c.adapter, live_versions.c.canary_share)
    of_page = await db.execute(pointers.where(live_versions.c.adapter.between(keys[0], keys[-1])))
    shares = {adapter: share for adapter, share in of_page}
    return [_adapter(key, found, shares.get(key)) for key, found in grouped.items()]


def _adapter(key: str, found: Sequence[Version], share: float | None) -> Adapter:
    numbers = {version.state: version.version for version in found}
    return Adapter(
        key=key, live=numbers.get("live"), canary=numbers.get("canary"), canary_share=share, versions=list(found)
    )
