"""A database that is away, that ends sessions, or that has no space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import end_sessions
from mindprint_server.store import Store, StoreBusy, StoreError, StoreFull
from mindprint_server.store.database import Database


@pytest.fixture
def postgres(dialect: str) -> None:
    if dialect != "postgresql":
        pytest.skip("only PostgreSQL has sessions")


@pytest.mark.usefixtures("postgres")
async def test_call_whose_session_is_ended_says_busy_and_the_next_one_works(empty: str, make: Any) -> None:
    store = await Store.open(empty)

    async def ended(db: AsyncConnection) -> None:
        await end_sessions(empty)
        await db.execute(text("SELECT 1"))

    with pytest.raises(StoreBusy, match=r"the connection was lost|is starting or stopping"):
        await store._database.write(ended)
    await make.user(store, "ann")
    await end_sessions(empty)
    assert (await store.users.get("ann")).engagements == 3, "an idle connection that was ended is replaced"
    await store.close()


@pytest.mark.usefixtures("postgres")
async def test_session_ended_at_the_commit_says_busy(empty: str, make: Any) -> None:
    store = await Store.open(empty)
    await make.user(store, "ann")
    ends = [True]

    @event.listens_for(store._database.engine.sync_engine, "commit")
    def end(connection: Any) -> None:
        if ends and ends.pop():
            connection.connection.dbapi_connection._connection._transport.abort()

    with pytest.raises(StoreBusy) as lost:
        await make.user(store, "bob")
    assert lost.value.is_outcome_unknown
    await make.user(store, "bob")
    assert len(await store.users.list_page()) == 2
    await store.close()


async def test_connection_that_is_lost_before_the_commit_has_stored_nothing(empty: str) -> None:
    store = await Store.open(empty)

    async def lose(db: AsyncConnection) -> None:
        raise ConnectionResetError

    with pytest.raises(StoreBusy) as lost:
        await store._database.write(lose)
    assert not lost.value.is_outcome_unknown
    await store.close()


async def test_commit_whose_reply_is_lost_says_that_it_may_have_been_done(empty: str) -> None:
    store = await Store.open(empty)
    ends = [True]

    @event.listens_for(store._database.engine.sync_engine, "commit")
    def lose(connection: Any) -> None:
        if ends and ends.pop():
            raise ConnectionResetError

    with pytest.raises(StoreBusy, match="may have stored the change or not") as lost:
        await store._database.write(_do_nothing)
    assert lost.value.is_outcome_unknown
    await store.close()


async def _do_nothing(db: AsyncConnection) -> None:
    await db.execute(text("SELECT 1"))


async def test_postgresql_that_is_away_is_busy(unused_tcp_port: int) -> None:
    with pytest.raises(StoreBusy, match=r"cannot open the database .*Connect call failed|refused"):
        await Store.open(f"postgres://ann:geheim@127.0.0.1:{unused_tcp_port}/x")


@pytest.mark.usefixtures("postgres")
async def test_unknown_database_is_named(empty: str) -> None:
    url = empty.replace("/test?", "/nowhere?")
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        await Store.open(url)


@pytest.mark.parametrize("mode", ["disable", "prefer"])
@pytest.mark.usefixtures("postgres")
async def test_url_as_people_have_it_opens(empty: str, mode: str, make: Any) -> None:
    store = await Store.open(empty.replace("postgresql+asyncpg", "postgres") + f"&sslmode={mode}")
    await make.user(store, "ann")
    await store.close()


async def test_full_sqlite_writes_nothing_and_recovers(tmp_path: Path, make: Any) -> None:
    database = await Database.open(f"sqlite:///{tmp_path}/s.db", busy_timeout_s=5)
    limit: list[int] = []

    @event.listens_for(database.engine.sync_engine, "checkout")
    def bound(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {limit[0] if limit else 1 << 30}")
        cursor.close()

    store = Store(database)
    await make.user(store, "ann")
    limit.append(1)  # SQLite takes the pages that there are
    with pytest.raises(StoreFull, match="free some space"):
        await store.engagements.add("bob", [make.engagement(n, prompt="long " * 400) for n in range(300)])
    assert [user.id for user in await store.users.list_page()] == ["ann"], "reads go on; nothing half-written remains"
    limit.clear()
    await make.user(store, "bob")
    await store.close()
