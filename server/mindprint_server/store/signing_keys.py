"""Keys that the servers of one database sign with. All of them get the same one."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.database import Database, insert_new
from mindprint_server.store.tables import signing_keys

RECEIPTS = "receipts"
"""The key of receipts."""
DATABASE = "database"
"""What is stored under this name is no key: it tells this database from another one."""


class SigningKeyRepository:
    """Stores keys. One that is stored never changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> bytes | None:
        """Return a key; None if none is stored under this name."""
        return await self._database.read(_get, name)

    async def ensure(self, name: str, key: bytes) -> bytes:
        """Store a key unless there is one, and return that which is stored then.

        Two servers that store a key at once get the same one back.
        """
        return await self._database.write(_ensure, name, key)

    async def database_id(self) -> str:
        """Return what tells this database from others: 32 hex digits, the same for all its servers and its backups."""
        return (await self.ensure(DATABASE, secrets.token_bytes(16))).hex()


async def _get(db: AsyncConnection, name: str) -> bytes | None:
    stored = await db.scalar(select(signing_keys.c.key).where(signing_keys.c.name == name))
    return None if stored is None else bytes.fromhex(stored)


async def _ensure(db: AsyncConnection, name: str, key: bytes) -> bytes:
    row = {"name": name, "key": key.hex(), "created_at": datetime.now(UTC)}
    await db.execute(insert_new(db, signing_keys), row)
    return await _get(db, name) or key
