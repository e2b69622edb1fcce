"""API keys. Only a hash of each secret is stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import ApiKey
from mindprint_server.store import tenants
from mindprint_server.store.column_types import Utc
from mindprint_server.store.database import Database
from mindprint_server.store.exceptions import RecordNotFound
from mindprint_server.store.tables import api_keys


@dataclass(frozen=True)
class StoredApiKey:
    """A key with the hash of its secret."""

    key: ApiKey
    secret_sha256: str
    """64 hex digits."""


class ApiKeyRepository:
    """Stores the keys of all tenants. A key that was revoked or has expired stays listed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey, secret_sha256: str, *, ends: tuple[str, datetime] | None = None) -> ApiKey:
        """Store a new key.

        Args:
            key: The key.
            secret_sha256: The SHA-256 of its secret, 64 hex digits.
            ends: Id of a key that it replaces, and when that one expires, unless it expires earlier.
        """
        return await self._database.write(_add, key, secret_sha256, ends)

    async def find(self, id: str) -> StoredApiKey | None:
        """Return a key with its hash; None if there is none with this id."""
        return await self._database.read(_find, id)

    async def get(self, id: str, *, tenant: str | None) -> ApiKey:
        """Return a key of a tenant; None: of any."""
        return await self._database.read(_get, id, tenant)

    async def list_page(self, *, tenant: str | None, after: str | None = None, limit: int = 100) -> list[ApiKey]:
        """List keys, the oldest first.

        Args:
            tenant: Whose keys; None: of all tenants.
            after: Last id of the previous page; None starts at the beginning.
            limit: Maximum number of keys.
        """
        return await self._database.read(_list_page, tenant, after, limit)

    async def exist(self) -> bool:
        """Return whether there ever was a key."""
        return await self._database.read(_exist)

    async def revoke(self, id: str, *, tenant: str | None, now: datetime | None = None) -> ApiKey:
        """Revoke a key of a tenant for good and return it. A key that is revoked already does not change.

        Args:
            id: The key.
            tenant: Its tenant; None: any.
            now: The time; None is the clock's.
        """
        return await self._database.write(_revoke, id, tenant, now or datetime.now(UTC))

    async def record_use(self, id: str, at: datetime) -> None:
        """Store when a key was used."""
        await self._database.write(_record_use, id, at)


async def _add(db: AsyncConnection, key: ApiKey, secret_sha256: str, ends: tuple[str, datetime] | None) -> ApiKey:
    await tenants.ensure(db, key.tenant)
    if ends is not None:
        await _expire(db, *ends)
    await db.execute(insert(api_keys), {**key.model_dump(), "secret_sha256": secret_sha256})
    return key


async def _find(db: AsyncConnection, id: str) -> StoredApiKey | None:
    row = (await db.execute(select(api_keys).where(api_keys.c.id == id))).mappings().one_or_none()
    return None if row is None else StoredApiKey(_key(row), row["secret_sha256"])


async def _list_page(db: AsyncConnection, tenant: str | None, after: str | None, limit: int) -> list[ApiKey]:
    by_age = api_keys.c.created_at, api_keys.c.id
    query = select(api_keys).where(*_of(tenant)).order_by(*by_age).limit(limit)
    if after is not None:
        last = await _get(db, after, tenant)
        newer = tuple_(*by_age) > tuple_(literal(last.created_at, Utc), literal(last.id))
        query = query.where(newer)
    rows = await db.execute(query)
    return [_key(row) for row in rows.mappings()]


async def _exist(db: AsyncConnection) -> bool:
    return bool(await db.scalar(select(func.count()).select_from(api_keys)))


async def _expire(db: AsyncConnection, id: str, at: datetime) -> None:
    await _get(db, id, None)
    earlier = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > at)
    await db.execute(update(api_keys).where(api_keys.c.id == id, earlier).values(expires_at=at))


async def _revoke(db: AsyncConnection, id: str, tenant: str | None, now: datetime) -> ApiKey:
    active = api_keys.c.revoked_at.is_(None)
    await db.execute(update(api_keys).where(api_keys.c.id == id, active, *_of(tenant)).values(revoked_at=now))
    return await _get(db, id, tenant)


async def _record_use(db: AsyncConnection, id: str, at: datetime) -> None:
    await db.execute(update(api_keys).where(api_keys.c.id == id).values(last_used_at=at))


async def _get(db: AsyncConnection, id: str, tenant: str | None) -> ApiKey:
    stored = await _find(db, id)
    if stored is None or tenant not in (None, stored.key.tenant):
        raise RecordNotFound("key", id)
    return stored.key


def _of(tenant: str | None) -> list[ColumnElement[bool]]:
    return [] if tenant is None else [api_keys.c.tenant == tenant]


def _key(row: Any) -> ApiKey:
    return ApiKey.model_validate({name: value for name, value in row.items() if name != "secret_sha256"})
