"""Tenants. Each is made with its first key, together with its cohort `everyone`."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE
from mindprint_server.store.database import Database, insert_new
from mindprint_server.store.tables import cohorts, tenants


class TenantRepository:
    """Reads tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_all(self) -> list[str]:
        """List the names of all tenants in order."""
        return await self._database.read(list_all)

    async def list_epochs(self) -> dict[str, int]:
        """Return each tenant's erasure epoch: it grows with each erasure."""
        return await self._database.read(_list_epochs)


async def _list_epochs(db: AsyncConnection) -> dict[str, int]:
    return {id: epoch for id, epoch in await db.execute(select(tenants.c.id, tenants.c.erasure_epoch))}


async def ensure(db: AsyncConnection, name: str) -> None:
    """Make a tenant if there is none with this name."""
    now = datetime.now(UTC)
    await db.execute(insert_new(db, tenants), {"id": name, "created_at": now})
    everyone = {"tenant": name, "name": EVERYONE, "created_at": now}
    description = "All users who are in no other cohort."
    await db.execute(insert_new(db, cohorts), everyone | {"description": description})


async def list_all(db: AsyncConnection) -> list[str]:
    """List the names of all tenants in order."""
    return list((await db.scalars(select(tenants.c.id).order_by(tenants.c.id))).all())
