"""Connections and transactions, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from cachetools import LRUCache
from sqlalchemy import Connection, Table, event, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from mindprint.private_files import FILE, make_private, make_private_folder
from mindprint_server.store.exceptions import StoreBusy, StoreError, StoreFailed
from mindprint_server.store.faults import DATABASE_ERRORS, translate, translate_commit
from mindprint_server.store.migrations import upgrade
from mindprint_server.store.tenant_scope import limit_to_tenant
from mindprint_server.store.urls import DatabaseUrl, parse_url
from mindprint_server.tenancy import current_tenant, in_all_tenants, is_in_all_tenants

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[AsyncConnection, P], Coroutine[Any, Any, T]]
"""A function that runs in one transaction. It gets the connection, then its own arguments."""

BUSY_POLL_S = 0.02
MIGRATIONS_WAIT_S = 600
"""Seconds for which a start waits while another server migrates the tables. Statements of a migration take minutes."""
SQLITE_CONNECTIONS = 15
"""Connections to a SQLite file at most. They stay open: each has a thread, and opening one takes milliseconds."""
ACROSS_TENANTS_CACHED = 100
"""Compiled statements on all tenants that are kept."""


class Database:
    """Runs functions in transactions: `read` sees one snapshot, `write` commits all or nothing.

    Attributes:
        engine: The pool of connections.
        listener: Opens connections outside of the pool that listen for notifications; None on SQLite.
    """

    def __init__(self, engine: AsyncEngine, listener: AsyncEngine | None = None) -> None:
        self.engine = engine
        self.listener = listener
        self._running: set[asyncio.Task[Any]] = set()
        if engine.dialect.name == "sqlite":
            self._readers = engine
            self._writers = engine.execution_options(immediate=True)
            # SQLite has one writer. A lock here is fair and wakes the next task at once; SQLite's busy handler polls.
            self._writer_lock: AbstractAsyncContextManager[None] = asyncio.Lock()
        else:
            self._readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writers = engine
            self._writer_lock = nullcontext()
        # Statements on all tenants are compiled to other SQL, so they are cached apart.
        across: LRUCache[Any, Any] = LRUCache(ACROSS_TENANTS_CACHED)
        self._all_readers = self._readers.execution_options(compiled_cache=across)
        self._all_writers = self._writers.execution_options(compiled_cache=across)

    @classmethod
    async def open(
        cls, url: str, *, busy_timeout_s: float, statement_timeout_s: float = 0, migrate: bool = True
    ) -> Database:
        """Connect, create the folder of a SQLite file, and migrate the tables to the newest version.

        Args:
            url: URL of the database.
            busy_timeout_s: Bound of each wait for a lock, a free connection or a connect, in seconds.
            statement_timeout_s: Seconds after which PostgreSQL ends a statement; migrations are not bound. 0: never.
            migrate: False leaves the tables as they are, and a SQLite file must exist.

        Raises:
            StoreError: The URL is not valid, or the database cannot be opened.
        """
        parsed = parse_url(url)
        if not migrate and parsed.is_missing_file():
            raise StoreError(f"there is no database {parsed}: correct data_dir or database_url")
        database = cls(_engine(parsed, busy_timeout_s, statement_timeout_s), _listener(parsed, busy_timeout_s))
        try:
            with in_all_tenants():
                await (database.write(_migrate) if migrate else database.read(ping))
        except StoreBusy as error:
            await database.close()
            raise StoreBusy(error.why, f"cannot open the database {parsed}") from error
        except StoreFailed as error:
            await database.close()
            raise StoreError(f"cannot open the database {parsed}: {error.why}") from error
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Wait for running transactions, then disconnect."""
        if self._running:
            await asyncio.wait(self._running)
        await self.engine.dispose()

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a transaction that sees one snapshot and may not write.

        Args:
            work: The function; it gets the connection first.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        return await self._run_to_end(self.snapshot(), translate, work, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a transaction that is committed if it returns and rolled back if it raises.

        Args:
            work: The function; it gets the connection first.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        return await self._run_to_end(self.transaction(), translate_commit, work, *args, **kwargs)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for reading while the block runs."""
        readers = self._all_readers if is_in_all_tenants() else self._readers
        async with readers.connect() as db:
            yield db

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open a writing transaction; commit it at the end of the block, or roll it back if the block raises."""
        writers = self._all_writers if is_in_all_tenants() else self._writers
        async with self._writer_lock, writers.begin() as db:
            yield db

    async def purge(self, tables: Sequence[str]) -> None:
        """Overwrite what is left of deleted rows in the database's files.

        SQLite writes the whole file anew and empties the write-ahead log. PostgreSQL vacuums the tables; what others
        still read, and its write-ahead log, keep the rows for a while.

        Args:
            tables: Names of the tables that rows were deleted from.

        Raises:
            StoreError: The file of SQLite could not be written anew, or its log not be emptied.
        """
        work = self._purge_sqlite() if self.engine.dialect.name == "sqlite" else self._purge_postgres(tables)
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._end)
        try:
            await asyncio.shield(task)
        except (*DATABASE_ERRORS, sqlite3.Error) as error:
            raise translate(error).with_traceback(error.__traceback__) from None

    async def _purge_sqlite(self) -> None:
        async with self._writer_lock, self.engine.connect() as db:
            # Outside of SQLAlchemy's transaction: these statements refuse to run in one.
            driver: Any = (await db.get_raw_connection()).driver_connection
            # SQLite 3.40: with secure_delete alone, a page that was balanced or whose row shrank keeps old bytes in its
            # unused part (decision 032). VACUUM writes every page anew.
            await driver.execute("VACUUM")
            cursor = await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            is_busy, *_ = await cursor.fetchone()
            if is_busy:
                raise StoreBusy("somebody still reads the write-ahead log")

    async def _purge_postgres(self, tables: Sequence[str]) -> None:
        # An attempt: a role that may not vacuum leaves it to autovacuum.
        with contextlib.suppress(*DATABASE_ERRORS):
            async with self._readers.connect() as db:
                schema = await db.scalar(select(func.quote_ident(func.current_schema())))
            async with self.engine.connect() as db:
                autocommit = await db.execution_options(isolation_level="AUTOCOMMIT")
                for table in tables:
                    await autocommit.execute(text(f"VACUUM (SKIP_LOCKED) {schema}.{table}"))

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Read, so that asyncio does not log it where the caller was cancelled and nobody waits.
        if not task.cancelled():
            task.exception()

    async def _run_to_end(
        self,
        scope: AbstractAsyncContextManager[AsyncConnection],
        translate_end: Callable[[Exception], Exception],
        work: Work[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `work` to its end, even if the caller is cancelled. `translate_end` is for errors after `work`."""
        # A cancelled call of the SQLite driver would keep the database locked.

        async def run() -> T:
            translate_now: Callable[[Exception], Exception] = translate
            try:
                async with scope as db:
                    result = await work(db, *args, **kwargs)
                    translate_now = translate_end
                return result
            except DATABASE_ERRORS as error:
                # Without its chain: the errors of the driver hold SQL and what users sent.
                raise translate_now(error).with_traceback(error.__traceback__) from None

        task = asyncio.create_task(run())
        self._running.add(task)
        task.add_done_callback(self._end)
        return await asyncio.shield(task)


async def _migrate(db: AsyncConnection) -> None:
    if db.dialect.name == "postgresql":
        await db.execute(text("SET LOCAL statement_timeout = 0"))
        bound = await db.scalar(select(func.current_setting("lock_timeout")))
        await db.execute(select(func.set_config("lock_timeout", f"{MIGRATIONS_WAIT_S}s", True)))
        await _lock(db, "migrations")
        await db.execute(select(func.set_config("lock_timeout", bound, True)))
    await db.run_sync(upgrade)


async def ping(db: AsyncConnection) -> None:
    """Ask the database for an answer, without a table."""
    await db.execute(text("SELECT 1"))


async def advisory_lock(db: AsyncConnection, name: str) -> None:
    """Hold the tenant's lock `name` until this transaction ends.

    On SQLite this does nothing: it has one writer at a time.
    """
    if db.dialect.name == "postgresql":
        await _lock(db, f"{current_tenant()} {name}")


async def _lock(db: AsyncConnection, name: str) -> None:
    await db.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"mindprint {name}", 0))))


async def force_hash_join(db: AsyncConnection) -> None:
    """Keep PostgreSQL from using nested loops for joins until this transaction ends.

    PostgreSQL has no statistics on a table that was just filled. It would rank all engagements anew for every trace.
    """
    if db.dialect.name == "postgresql":
        await db.execute(text("SET LOCAL enable_nestloop = off"))


def insert_new(db: AsyncConnection, table: Table) -> Any:
    """Return an INSERT that leaves existing rows unchanged."""
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def _engine(url: DatabaseUrl, busy_timeout_s: float, statement_timeout_s: float = 0) -> AsyncEngine:
    # Parameters hold users' texts. They must not appear in error messages, and so in logs.
    make = partial(create_async_engine, pool_timeout=busy_timeout_s, json_serializer=_json, hide_parameters=True)
    is_sqlite = url.url.drivername.startswith("sqlite")
    engine = (
        _sqlite(make, url.url, busy_timeout_s)
        if is_sqlite
        else _postgres(make, url, busy_timeout_s, statement_timeout_s)
    )
    limit_to_tenant(engine.sync_engine.dialect)
    return engine


def _listener(url: DatabaseUrl, busy_timeout_s: float) -> AsyncEngine | None:
    if url.url.drivername.startswith("sqlite"):
        return None
    return _postgres(partial(create_async_engine, poolclass=NullPool, hide_parameters=True), url, busy_timeout_s, 0)


def _postgres(
    make: partial[AsyncEngine], url: DatabaseUrl, busy_timeout_s: float, statement_timeout_s: float
) -> AsyncEngine:
    # A pooler in transaction mode gives each transaction another session: no prepared statement outlives one, and
    # what is set is set in each (docs/how-to/use-postgresql.md).
    arguments: dict[str, Any] = {
        "timeout": url.connect_timeout_s or busy_timeout_s,
        "server_settings": {"application_name": url.application_name},
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": str,
    }
    if url.dsn:
        arguments["dsn"] = url.dsn
    engine = make(url.url, connect_args=arguments, pool_pre_ping=True)
    # Statements are short. PostgreSQL 15 compiled some for longer than they ran, where it had no statistics.
    # A statement goes on when the server that sent it is killed: it must have an end of its own.
    settings = {
        "lock_timeout": f"{busy_timeout_s * 1000:.0f}",
        "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
        "jit": "off",
    }
    if url.search_path is not None:
        settings["search_path"] = url.search_path
    columns = (func.set_config(name, value, True) for name, value in settings.items())
    set_locally = select(*columns)

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.execute(set_locally)

    return engine


def _sqlite(make: partial[AsyncEngine], url: URL, busy_timeout_s: float) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise StoreError("SQLite needs a file: sqlite+aiosqlite:///PATH")
    path = Path(str(url.database))
    try:
        if not path.parent.exists():
            make_private_folder(path.parent)
        _make_private_database(path)
    except OSError as error:
        raise StoreError(f"cannot make the folder of the database: {error}") from error
    engine = make(url, connect_args={"timeout": busy_timeout_s}, pool_size=SQLITE_CONNECTIONS, max_overflow=0)

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        # Keep the driver from starting transactions by itself: `on_begin` does.
        connection.isolation_level = None
        cursor = connection.cursor()
        _write_ahead(cursor, busy_timeout_s)
        cursor.execute("PRAGMA foreign_keys = ON")
        # Deleted texts are overwritten with zeros. `purge` removes what this leaves.
        cursor.execute("PRAGMA secure_delete = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        # Take the write lock at once: a transaction that reads first and writes later would fail instead of waiting.
        writes = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _make_private_database(path: Path) -> None:
    """Make the file of the database, if it is missing, and let only its owner read it and the files beside it."""
    with contextlib.suppress(FileExistsError):
        path.touch(FILE, exist_ok=False)
    # SQLite gives new files beside the database the mode of the database.
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        make_private(path.with_name(name))


def _write_ahead(cursor: Any, busy_timeout_s: float) -> None:
    """Set the journal mode to write-ahead logging; wait for the lock if another process has just created the file."""
    # SQLite does not call its busy handler for this statement, so wait here.
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


# NaN and infinity are not JSON. PostgreSQL refuses them; refuse them on SQLite as well.
_json = partial(dumps, allow_nan=False, ensure_ascii=False)
