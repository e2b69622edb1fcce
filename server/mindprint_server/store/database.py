"""Connections and transactions, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Table, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from mindprint_server.store.exceptions import StoreBusy, StoreError
from mindprint_server.store.migrations import upgrade

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[AsyncConnection, P], Coroutine[Any, Any, T]]
"""What runs in one transaction: it gets the connection, then its own arguments."""

BUSY: dict[Any, str] = {
    sqlite3.SQLITE_BUSY: "another process is writing",
    "55P03": "another transaction holds a lock",
    "40P01": "two transactions waited for each other",
}
BUSY_POLL_S = 0.02
DRIVERS = ("sqlite+aiosqlite", "postgresql+asyncpg")


class Database:
    """Runs work in transactions: `read` sees one snapshot, `write` commits all or nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._running: set[asyncio.Task[Any]] = set()
        if engine.dialect.name == "sqlite":
            self._readers = engine
            self._writers = engine.execution_options(immediate=True)
            # SQLite has one writer; waiting here is fair and wakes at once, where its busy handler polls.
            self._turn: AbstractAsyncContextManager[None] = asyncio.Lock()
        else:
            self._readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writers = engine
            self._turn = nullcontext()

    @classmethod
    async def open(cls, url: str, *, busy_timeout_s: float) -> Database:
        """Connects, makes the folder of a SQLite file, and brings the tables up to date.

        `busy_timeout_s` bounds each wait: for a lock, for a free connection, for the server to answer a connect.
        """
        database = cls(_engine(url, busy_timeout_s))
        try:
            await database.write(_migrate)
        except BaseException as error:
            await database.close()
            if isinstance(error, StoreError) or not isinstance(error, Exception):
                raise
            raise StoreError(f"cannot open the database {database.engine.url!r}: {error}") from error
        return database

    async def close(self) -> None:
        """Waits for what is running, then disconnects."""
        if self._running:
            await asyncio.wait(self._running)
        await self.engine.dispose()

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._whole(self.snapshot(), work, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._whole(self.transaction(), work, *args, **kwargs)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        async with self._readers.connect() as db:
            yield db

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._turn, self._writers.begin() as db:
            yield db

    async def _whole(
        self,
        scope: AbstractAsyncContextManager[AsyncConnection],
        work: Work[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs to the end even if the caller is cancelled: SQLite's driver, stopped halfway, would keep its lock."""

        async def run() -> T:
            try:
                async with scope as db:
                    return await work(db, *args, **kwargs)
            except (DBAPIError, PoolTimeout) as error:
                if why := _busy(error):
                    raise StoreBusy(why) from error
                raise

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


async def _migrate(db: AsyncConnection) -> None:
    await advisory_lock(db, "migrations")
    await db.run_sync(upgrade)


async def advisory_lock(db: AsyncConnection, name: str) -> None:
    """Until this transaction ends, no other that asks for `name` goes on. SQLite's writers are alone anyway."""
    if db.dialect.name == "postgresql":
        await db.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"mindprint {name}", 0))))


async def force_hash_join(db: AsyncConnection) -> None:
    """Until this transaction ends, PostgreSQL reads each side of a join once, however few rows it expects.

    Of a table that has just been filled it knows nothing yet, and would rank all engagements anew for every trace.
    """
    if db.dialect.name == "postgresql":
        await db.execute(text("SET LOCAL enable_nestloop = off"))


def _busy(error: DBAPIError | PoolTimeout) -> str | None:
    """Why a call that failed so may succeed when it is made again, or None if it may not."""
    if isinstance(error, PoolTimeout):
        return "every connection is in use"
    code = getattr(error.orig, "sqlite_errorcode", None) or getattr(error.orig, "sqlstate", None)
    return BUSY.get(code)


def insert_new(db: AsyncConnection, table: Table) -> Any:
    """An INSERT that leaves rows alone that are there already."""
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def _engine(url: str, busy_timeout_s: float) -> AsyncEngine:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"the database URL cannot be read: use {' or '.join(DRIVERS)}://...") from error
    if parsed.drivername not in DRIVERS:
        raise StoreError(f"no database driver {parsed.drivername!r}: use {' or '.join(DRIVERS)}")
    # Parameters are what users wrote: they stay out of error messages, and so out of logs.
    make = partial(create_async_engine, pool_timeout=busy_timeout_s, json_serializer=_json, hide_parameters=True)
    if parsed.drivername.startswith("sqlite"):
        return _sqlite(make, parsed, busy_timeout_s)
    # asyncpg takes server settings apart from the URL; of these a search path is worth having in it.
    settings = {"lock_timeout": f"{busy_timeout_s * 1000:.0f}"}
    if path := parsed.query.get("search_path"):
        settings["search_path"] = path if isinstance(path, str) else ",".join(path)
    arguments = {"server_settings": settings, "timeout": busy_timeout_s}
    return make(parsed.difference_update_query(["search_path"]), connect_args=arguments, pool_pre_ping=True)


def _sqlite(make: partial[AsyncEngine], url: URL, busy_timeout_s: float) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise StoreError("SQLite needs a file: sqlite+aiosqlite:///PATH")
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder of the database: {error}") from error
    engine = make(url, connect_args={"timeout": busy_timeout_s})

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: `on_begin` does
        cursor = connection.cursor()
        _write_ahead(cursor, busy_timeout_s)
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        # A writer takes the write lock first: a reader that becomes a writer midway would fail, not wait.
        writes = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(cursor: Any, busy_timeout_s: float) -> None:
    """Sets the journal mode. A file that another process has just made may be locked, and for this one statement SQLite
    does not ask its busy handler: the waiting is done here."""
    deadline = time.monotonic() + busy_timeout_s
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            return
        await_only(asyncio.sleep(BUSY_POLL_S))


# NaN and infinity are no JSON: PostgreSQL refuses them, so SQLite does too.
_json = partial(dumps, allow_nan=False, ensure_ascii=False)
