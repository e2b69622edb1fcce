"""Servers on PostgreSQL hear what happens to a batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from databases import POSTGRES, end_sessions, new_database
from mindprint.types import BatchRequest
from mindprint_server.store import Store
from mindprint_server.store.batches import ItemResult
from pooler import pooler


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[asyncio.Queue[None]]:
    heard: asyncio.Queue[None] = asyncio.Queue()
    task = asyncio.create_task(store.notifications.listen(lambda: heard.put_nowait(None)))
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hear(heard: asyncio.Queue[None]) -> None:
    async with asyncio.timeout(10):
        await heard.get()


@pytest.fixture
def postgres(store: Store) -> Store:
    if not store.notifications.available:
        pytest.skip("SQLite does not notify")
    return store


async def test_each_change_of_a_batch_is_heard_once(postgres: Store, other: Store, make: Any) -> None:
    await make.user(postgres, "ann", 1)
    async with listening(postgres) as heard:
        await hear(heard)  # it listens
        batch, _ = await other.batches.add(BatchRequest(), [("ann", "e0")], max_open=9)
        await hear(heard)
        await other.batches.finish_items([ItemResult(batch.id, "ann", "e0", "rejected")], {})
        await hear(heard)
        await other.batches.cancel(batch.id)  # it has ended, so nothing changes
        second, _ = await other.batches.add(BatchRequest(), [], max_open=9)
        await hear(heard)
        await other.batches.cancel(second.id)
        await hear(heard)
        assert heard.empty()


async def test_listener_holds_no_transaction_and_no_place_in_the_pool(postgres: Store) -> None:
    async with listening(postgres) as heard:
        await hear(heard)
        admin = await asyncpg.connect(f"postgresql://{POSTGRES}")
        query = "SELECT state FROM pg_stat_activity WHERE query LIKE 'LISTEN %mindprint_batches%'"
        assert {row["state"] for row in await admin.fetch(query)} == {"idle"}
        await admin.close()
        assert postgres._database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_listening_ends_with_its_session(dialect: str, tmp_path: Path) -> None:
    if dialect == "sqlite":
        pytest.skip("SQLite does not notify")
    async with new_database(dialect, tmp_path) as url:
        store = await Store.open(url)
        started = asyncio.Event()
        task = asyncio.create_task(store.notifications.listen(started.set))
        async with asyncio.timeout(10):
            await started.wait()
            await end_sessions(url)
            await task
        await store.close()


async def test_pooler_takes_the_listening_and_passes_nothing_on(dialect: str, tmp_path: Path, make: Any) -> None:
    """Why servers look at the batches now and then."""
    if dialect == "sqlite":
        pytest.skip("SQLite has no pooler")
    async with pooler(tmp_path) as address, new_database(dialect, tmp_path) as url:
        direct, pooled = await Store.open(url), await Store.open(url.replace(POSTGRES, address))
        async with listening(pooled) as heard:
            await hear(heard)
            async with listening(direct) as also:
                await hear(also)
                await pooled.batches.add(BatchRequest(), [], max_open=9)
                await hear(also)
            assert heard.empty()
        await direct.close()
        await pooled.close()


async def test_database_that_cannot_notify_says_so(store: Store) -> None:
    if store.notifications.available:
        pytest.skip("PostgreSQL can")
    with pytest.raises(RuntimeError, match="cannot notify"):
        await store.notifications.listen(lambda: None)
