from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, event, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest
from mindprint_server.store import Store, StoreBusy, StoreError, StoreFailed
from mindprint_server.store import database as database_module
from mindprint_server.store.database import Database, _engine
from mindprint_server.store.migrations import downgrade, upgrade
from mindprint_server.store.tables import metadata, users
from mindprint_server.store.urls import parse_url


@pytest.fixture
def database(store: Store) -> Database:
    return store._database


async def test_migrations_and_tables_agree(database: Database) -> None:
    def differences(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    def checks(connection: Connection) -> set[str | None]:  # which the comparison leaves out
        found = inspect(connection)
        return {check["name"] for table in metadata.tables for check in found.get_check_constraints(table)}

    async with database.snapshot() as db:
        assert await db.run_sync(differences) == []
        constraints = (c for table in metadata.tables.values() for c in table.constraints)
        assert await db.run_sync(checks) == {c.name for c in constraints if isinstance(c, CheckConstraint)}


def shape(connection: Connection) -> Any:
    """Columns, keys and checks of every table, in an order that does not matter."""
    found = inspect(connection)
    return {
        table: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)),
            sorted(index["name"] or "" for index in found.get_indexes(table)),
            sorted(str((key["constrained_columns"], key["referred_table"])) for key in found.get_foreign_keys(table)),
            sorted(str(check["name"]) for check in found.get_check_constraints(table)),
            found.get_pk_constraint(table)["constrained_columns"],
        )
        for table in found.get_table_names()
    }


async def test_an_older_database_comes_up_and_goes_down_with_its_rows(empty: str, make: Any) -> None:
    database = await Database.open(empty, busy_timeout_s=30)

    async def migrated(to: Callable[..., None], revision: str) -> Any:
        async def run(db: AsyncConnection) -> Any:
            await db.run_sync(to, revision)
            return await db.run_sync(shape)

        return await database.write(run)

    store = Store(database)
    newest = await database.read(lambda db: db.run_sync(shape))
    version = await make.trained(store)
    refused = await make.refused(store, await make.leased(store))
    await store.profiles.add(make.profile("ann"))
    before = (
        await store.traces.find(),
        await store.users.list_page(),
        await store.adapters.get("user/ann"),
        await store.cohorts.list_page(),
    )
    assert [t.versions for t in before[0]] == [["user/ann@1"]] * 2 + [["user/ann@2"]] * 2
    # What the older release has no room for: a cohort's member, and a canary where nothing is live.
    await make.cohort(store, "cooks", "bob")
    await make.completed(store, await make.claim(store, adapter="user/bob"))
    await store.live_versions.set_live("user/bob", None)
    await store.live_versions.set_canary("user/bob", 1, 0.1)

    older = await migrated(downgrade, "0002")
    new_tables = {"cohorts", "trace_versions", "replays", "tenants", "api_keys", "audit_events"}
    new_tables |= {"erasures", "version_users", "signing_keys", "publications", "clock_marks", "row_counts"}
    assert set(newest) - set(older) == new_tables
    assert await migrated(upgrade, "head") == newest
    assert (await store.users.get("bob")).cohort == "everyone"
    assert (await store.live_versions.get("user/bob")).canary is None
    traces, users, adapter, cohorts = before
    assert [t for t in await store.traces.find() if t.user_id == "ann"] == traces
    assert [u for u in await store.users.list_page() if u.id == "ann"] == users
    # A start is no longer known; whatever else a version was stays.
    assert [v.start for v in adapter.versions] == [None, f"user/ann@{version.version}"]
    assert (await store.adapters.get("user/ann")).versions == [version, refused.model_copy(update={"start": None})]
    assert [c.name for c in await store.cohorts.list_page()] == [c.name for c in cohorts]
    assert await migrated(downgrade, "0002") == older
    await database.close()


async def test_going_down_leaves_the_tables_of_that_release(empty: str) -> None:
    database = Database(_engine(parse_url(empty), 30))

    async def through(db: AsyncConnection, *steps: tuple[Callable[..., None], str]) -> Any:
        for to, revision in steps:
            await db.run_sync(to, revision)
        return await db.run_sync(shape)

    then = await database.write(through, (upgrade, "0002"))
    assert await database.write(through, (upgrade, "head"), (downgrade, "0002")) == then
    await database.close()


def test_migrations_lie_in_the_package() -> None:
    migrations = files("mindprint_server.store") / "migrations"
    assert (migrations / "env.py").is_file()
    assert (migrations / "versions" / "0001_first.py").is_file()


async def test_opening_at_once_and_again_migrates_once(empty: str, make: Any) -> None:
    stores = await asyncio.gather(*(Store.open(empty) for _ in range(3)))
    await make.user(stores[0], "ann")
    assert [u.id for u in await stores[1].users.list_page()] == ["ann"]
    await asyncio.gather(*(store.close() for store in stores))
    again = await Store.open(empty)
    assert (await again.users.get("ann")).engagements == 3
    await again.close()


async def test_a_new_file_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    url = f"sqlite+aiosqlite:///{tmp_path}/s.db"
    with pytest.raises(StoreBusy):
        await Store.open(url, busy_timeout_s=0.1)
    opening = asyncio.create_task(Store.open(url))
    await asyncio.sleep(0.1)
    assert not opening.done()
    other.execute("COMMIT")
    await (await opening).close()
    other.close()


async def test_a_newer_database_is_refused_in_words(empty: str) -> None:
    store = await Store.open(empty)
    async with store._database.transaction() as db:
        await db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await store.close()
    with pytest.raises(StoreError, match="another release"):
        await Store.open(empty)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "cannot be read"),
        ("mysql+aiomysql://localhost/x", "no database driver 'mysql\\+aiomysql'"),
        ("sqlite+aiosqlite://", "needs a file"),
        ("sqlite+aiosqlite:///:memory:", "needs a file"),
    ],
)
async def test_a_url_that_cannot_work_is_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        await Store.open(url)


async def test_a_database_that_does_not_answer_is_named_without_its_password(unused_tcp_port: int) -> None:
    with pytest.raises(StoreError, match=r"cannot open the database postgresql\+asyncpg://me:\*\*\*@127") as caught:
        await Store.open(f"postgresql+asyncpg://me:secret@127.0.0.1:{unused_tcp_port}/x")
    assert "secret" not in str(caught.value)


async def test_a_file_that_is_no_database_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        await Store.open(f"sqlite+aiosqlite:///{path}")


async def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot make the folder"):
        await Store.open(f"sqlite+aiosqlite:///{tmp_path}/file/store.db")


@pytest.mark.usefixtures("durable_commits")
async def test_sqlite_is_set_up_to_be_safe(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path}/a/b/s.db", busy_timeout_s=7)
    async with database.snapshot() as db:
        pragmas = [
            (await db.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        ]
    await database.close()
    assert pragmas == ["wal", 1, 7000, 2]


async def test_a_reader_sees_one_snapshot(database: Database, store: Store, make: Any) -> None:
    count = text("SELECT count(*) FROM users")
    async with database.snapshot() as db:
        assert await db.scalar(count) == 0
        await make.user(store, "ann")
        assert await db.scalar(count) == 0
    async with database.snapshot() as db:
        assert await db.scalar(count) == 1


async def test_a_writer_waits_for_its_turn_and_then_says_busy(store: Store, url: str, make: Any) -> None:
    hasty = await Store.open(url, busy_timeout_s=0.1)

    async def hold(db: AsyncConnection) -> None:
        await db.execute(users.insert(), {"id": "ann", "created_at": make.T0})
        assert await hasty.users.list_page() == []  # readers do not wait
        with pytest.raises(StoreBusy, match="retry"):
            await make.user(hasty, "ann")

    await store._database.write(hold)
    await make.user(hasty, "ann")
    assert [(u.id, u.engagements) for u in await hasty.users.list_page()] == [("ann", 3)]
    await hasty.close()


async def test_postgresql_ends_a_statement_that_takes_too_long(url: str, dialect: str) -> None:
    if dialect == "sqlite":
        pytest.skip("SQLite ends no statement")
    bounded = await Store.open(url, statement_timeout_s=0.2)
    with pytest.raises(StoreBusy, match="ended the statement"):
        await bounded._database.read(lambda db: db.execute(text("SELECT pg_sleep(60)")))
    assert await bounded.users.list_page() is not None
    await bounded.close()


async def test_no_bound_of_statements_holds_for_migrations(
    url: str, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect == "sqlite":
        pytest.skip("SQLite ends no statement")
    monkeypatch.setattr(database_module, "upgrade", lambda connection: connection.execute(text("SELECT pg_sleep(0.5)")))
    await (await Store.open(url, statement_timeout_s=0.2)).close()


async def test_a_start_waits_longer_for_another_server_s_migrations_than_for_other_locks(
    store: Store, url: str, dialect: str
) -> None:
    if dialect == "sqlite":
        pytest.skip("SQLite has one server")
    migrating, may_end = asyncio.Event(), asyncio.Event()

    async def migrate(db: AsyncConnection) -> None:
        await database_module._lock(db, "migrations")
        migrating.set()
        await may_end.wait()

    other = asyncio.create_task(store._database.write(migrate))
    await migrating.wait()
    start = asyncio.create_task(Store.open(url, busy_timeout_s=1))
    done, _ = await asyncio.wait([start], timeout=2)  # twice the bound of other locks
    assert not done
    may_end.set()
    await other
    hasty = await start
    assert await hasty._database.read(lambda db: db.scalar(text("SHOW lock_timeout"))) == "1s"
    await hasty.close()


async def test_a_call_that_gets_no_connection_says_busy(store: Store, url: str) -> None:
    hasty = await Store.open(url, busy_timeout_s=1)  # it bounds each connect too
    async with AsyncExitStack() as all_of_them:
        for _ in range(15):
            await all_of_them.enter_async_context(hasty._database.snapshot())
        with pytest.raises(StoreBusy, match="every connection is in use"):
            await hasty.users.list_page()
    assert await hasty.users.list_page() == []
    await hasty.close()


async def test_other_failures_of_the_database_are_not_called_busy(store: Store) -> None:
    async def fail(db: AsyncConnection) -> None:
        await db.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises(StoreFailed) as caught:
        await store._database.read(fail)
    shown = "".join(traceback.format_exception(caught.value))
    assert "nowhere" not in shown.replace('"SELECT nothing FROM nowhere"', ""), "no SQL outside of our own source"


async def test_a_time_without_a_zone_is_refused(store: Store, make: Any) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        await make.claim(store, now=make.T0.replace(tzinfo=None))


async def test_counts_and_pages_come_from_indexes(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path}/s.db")
    batch, _ = await store.batches.add(BatchRequest(), [], max_open=1)
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM traces" in statement or "FROM row_counts" in statement:
            asked.append((statement, parameters))

    async def plan(call: Awaitable[Any]) -> str:
        asked.clear()
        await call
        async with store._database.snapshot() as db:
            steps = [await db.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given) for sql, given in list(asked)]
        return "\n".join(str(row._mapping["detail"]) for step in steps for row in step)

    event.listen(store._database.engine.sync_engine, "before_cursor_execute", note)
    for count in (store.traces.count_waiting(), store.traces.list_untraced(None)):
        lines = [line for line in (await plan(count)).splitlines() if " traces " in line]
        assert lines
        assert all("COVERING INDEX" in line for line in lines), lines
    for kept in (store.funnel.get(), store.batches.get(batch.id), store.traces.count_queue()):
        lines = [line for line in (await plan(kept)).splitlines() if "TEMP B-TREE" not in line]
        assert lines
        assert all(line.startswith("SEARCH row_counts") and "batch_id=?" in line for line in lines), lines
    for page in (store.traces.find(), store.traces.find(batch=batch.id), store.traces.find(user="ann")):
        assert "TEMP B-TREE" not in await plan(page)
    await store.close()


async def test_a_cancelled_call_leaves_no_lock_behind(store: Store, make: Any) -> None:
    async with asyncio.timeout(20):
        for n in range(20):
            tasks = [asyncio.create_task(make.user(store, f"u{n}-{m}")) for m in range(3)]
            await asyncio.sleep(0.0005 * n)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await make.user(store, "ann")
        assert {user.engagements for user in await store.users.list_page()} == {3}


async def test_closing_waits_for_what_was_cancelled(empty: str, make: Any) -> None:
    store = await Store.open(empty)
    task = asyncio.create_task(make.user(store, "ann"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await store.close()
    again = await Store.open(empty)
    assert (await again.users.get("ann")).engagements == 3
    await again.close()


KILLED = """
import asyncio, os, sys
from sqlalchemy import event
from mindprint.types import Version
from mindprint_server.store import Store
from mindprint_server.tenancy import enter_tenant
enter_tenant("default")

async def main(url, lease, version, when):
    store = await Store.open(url)
    if when == "before":
        event.listen(store._database.engine.sync_engine, "commit", lambda _: os._exit(9))
    await store.publication.publish(lease, Version.model_validate_json(version))
    os._exit(9)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_server_killed_at_the_commit_has_all_or_nothing(store: Store, url: str, make: Any, when: str) -> None:
    lease = await make.leased(store)
    number = (await store.versions.allocate(lease.adapter)).version
    version = make.version(lease, number).model_dump_json()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, url, lease.id, version, when),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert await process.wait() == 9
    states = [(t.state, t.version) for t in await store.traces.list_of_lease(lease.id)]
    if when == "before":
        assert states == [("leased", None)] * 2
        assert (await store.live_versions.get(lease.adapter)).live is None
        assert (await make.claim(store, now=lease.deadline)).trace_ids == lease.trace_ids
    else:
        assert states == [("trained", number)] * 2
        live = (await store.live_versions.get(lease.adapter)).live
        assert live is not None
        assert live.version == number
