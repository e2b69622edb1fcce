"""The store through a pooler in transaction mode: each transaction may run in another session."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import POSTGRES, new_database
from mindprint_server.store import Store, StoreBusy
from mindprint_server.store.tables import users
from pooler import pooler


@pytest.fixture
async def pooled(dialect: str, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty schema, through a pooler that has fewer sessions than the stores have connections."""
    if dialect != "postgresql":
        pytest.skip("SQLite has no pooler")
    async with pooler(tmp_path, sessions=4) as address, new_database(dialect, tmp_path) as url:
        yield url.replace(POSTGRES, address)


async def test_asyncpg_with_its_own_defaults_fails_here(pooled: str) -> None:
    """Shows that this pooler is one: the usual connection to it is refused."""
    url = pooled.replace("+asyncpg", "").partition("?")[0]
    with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter"):
        await asyncpg.connect(url, server_settings={"lock_timeout": "1000"})


async def test_two_stores_at_once_live_their_leases(pooled: str, make: Any) -> None:
    stores = await asyncio.gather(Store.open(pooled), Store.open(pooled))

    async def train(store: Store, user: str) -> None:
        for round in range(3):
            lease = await make.leased(store, user, 2)
            assert (await store.leases.heartbeat(lease.id, 60)).state == "active"
            if round == 0:
                await store.leases.release(lease.id)
                continue
            version = await make.completed(store, lease)
            live = (await store.live_versions.get(f"user/{user}")).live
            assert live is not None
            assert live.version == version.version

    await asyncio.gather(*(train(store, f"u{n}-{m}") for n, store in enumerate(stores) for m in range(6)))
    assert len(await stores[0].users.list_page()) == 12
    assert await stores[0].traces.count_waiting() == {}
    for store in stores:
        await store.close()


async def test_bounds_and_search_path_hold_in_each_transaction_and_in_no_other(pooled: str) -> None:
    store = await Store.open(pooled, busy_timeout_s=0.2)
    schema = pooled.rpartition("=")[2]

    async def look(db: AsyncConnection) -> tuple[str, str]:
        row = (await db.execute(text("SELECT current_schema(), current_setting('lock_timeout')"))).one()
        return tuple(row)

    assert await asyncio.gather(*(store._database.read(look) for _ in range(8))) == [(schema, "200ms")] * 8
    plain = await asyncpg.connect(pooled.replace("+asyncpg", "").partition("?")[0], statement_cache_size=0)
    assert [await plain.fetchval("SHOW lock_timeout") for _ in range(8)] == ["0"] * 8
    await plain.close()
    await store.close()


async def test_lock_that_another_store_holds_says_busy(pooled: str, make: Any) -> None:
    patient, hasty = await Store.open(pooled), await Store.open(pooled, busy_timeout_s=2)

    async def hold(db: AsyncConnection) -> None:
        await db.execute(users.insert(), {"id": "ann", "created_at": make.T0})
        with pytest.raises(StoreBusy):
            await make.user(hasty, "ann")

    await patient._database.write(hold)
    await patient.close()
    await hasty.close()


WORKER = """
import asyncio, sys
from datetime import UTC, datetime
from mindprint.types import Engagement
from mindprint_server.store import Store
from mindprint_server.tenancy import enter_tenant

async def main(url, name):
    enter_tenant("default")
    store = await Store.open(url)

    async def work(n):
        item = Engagement(id=f"{name}-{n}", prompt="p", response="yes", occurred_at=datetime(2026, 1, 1, tzinfo=UTC))
        await store.engagements.add("ann", [item])
        await store.users.get("ann")
        await store.engagements.count("ann")

    for _ in range(3):
        await asyncio.gather(*(work(n) for n in range(10)))
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_several_processes_share_the_sessions(pooled: str, make: Any) -> None:
    store = await Store.open(pooled)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, pooled, f"w{n}", env=environment)
        for n in range(2)
    ]
    for _ in range(20):
        await store.users.list_page()
    assert [await process.wait() for process in processes] == [0, 0]
    assert (await store.users.get("ann")).engagements == 20
    await store.close()
