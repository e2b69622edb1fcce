"""What the database's own errors mean to callers."""

from __future__ import annotations

import sqlite3

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy.exc import DBAPIError, InvalidRequestError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mindprint_server.store import StoreBusy, StoreFailed, StoreFull
from mindprint_server.store.faults import translate, translate_commit

SQL = "INSERT INTO traces VALUES ('what Ann said')"


def of_sqlite(code: int, name: str) -> DBAPIError:
    error = sqlite3.OperationalError("UNIQUE: what Ann said")
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return DBAPIError(SQL, None, error)


def of_postgres(sqlstate: str) -> Exception:
    error: Exception = asyncpg.PostgresError.new({"C": sqlstate, "M": "Key (text)=(what Ann said) exists"})
    return error


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (sqlite3.SQLITE_BUSY, "SQLITE_BUSY"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "SQLITE_BUSY_SNAPSHOT"),
        (sqlite3.SQLITE_BUSY_RECOVERY, "SQLITE_BUSY_RECOVERY"),
        (sqlite3.SQLITE_LOCKED_SHAREDCACHE, "SQLITE_LOCKED_SHAREDCACHE"),
        (sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "SQLITE_READONLY_DBMOVED"),
    ],
)
def test_extended_codes_of_sqlite_are_busy(code: int, name: str) -> None:
    assert isinstance(translate(of_sqlite(code, name)), StoreBusy)


@pytest.mark.parametrize(
    "sqlstate",
    ["08006", "08P01", "40001", "40P01", "53200", "53300", "55P03", "57P01", "57P02", "57P03", "57014", "25006"],
)
def test_passing_states_of_postgresql_are_busy(sqlstate: str) -> None:
    assert isinstance(translate(of_postgres(sqlstate)), StoreBusy)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        ConnectionResetError(),
        TimeoutError(),
        PoolTimeout("QueuePool limit"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InterfaceError("cannot perform operation: another operation is in progress"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        DBAPIError(SQL, None, Exception("gone"), connection_invalidated=True),
    ],
)
def test_lost_or_refused_connection_is_busy(error: Exception) -> None:
    assert isinstance(translate(error), StoreBusy)


@pytest.mark.parametrize(
    ("error", "is_unknown"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (of_postgres("57P01"), True),
        (of_postgres("08006"), True),
        (of_postgres("40003"), True),
        (of_sqlite(sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"), True),
        (of_postgres("40001"), False),
        (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT, "SQLITE_BUSY_SNAPSHOT"), False),
    ],
)
def test_outcome_of_a_commit_is_unknown_unless_the_database_refused_it(error: Exception, is_unknown: bool) -> None:
    busy = translate_commit(error)
    assert isinstance(busy, StoreBusy)
    assert busy.is_outcome_unknown == is_unknown
    before = translate(error)
    assert isinstance(before, StoreBusy)
    assert not before.is_outcome_unknown


@pytest.mark.parametrize("error", [of_sqlite(sqlite3.SQLITE_FULL, "SQLITE_FULL"), of_postgres("53100")])
def test_full_disk_is_full(error: Exception) -> None:
    assert isinstance(translate(error), StoreFull)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (of_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE, "SQLITE_CONSTRAINT_UNIQUE"), "SQLITE_CONSTRAINT_UNIQUE"),
        (of_postgres("23505"), "UniqueViolationError, SQLSTATE 23505"),
        (
            asyncpg.PostgresError.new({"C": "42501", "M": "permission denied for schema public"}),
            "permission denied for schema public",
        ),
        (asyncpg.ClientConfigurationError("`sslmode` is odd"), "`sslmode` is odd"),
        (asyncpg.ClientConfigurationError("no root.crt\nHINT:  Name it."), "no root.crt HINT: Name it."),
        (
            ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade'),
            "it takes no TLS: enable ssl there, or choose another sslmode",
        ),
        (StatementError(SQL, SQL, None, None), "StatementError"),
        (InvalidRequestError(SQL), "InvalidRequestError"),
        (asyncpg.InterfaceError("what Ann said"), "InterfaceError"),
    ],
)
def test_other_errors_are_failures_named_without_sql_and_values(error: Exception, says: str) -> None:
    failed = translate(error)
    assert isinstance(failed, StoreFailed)
    assert str(failed) == f"the database failed: {says}"


def test_value_that_cannot_be_stored_keeps_its_own_error() -> None:
    error = ValueError("no time zone")
    assert translate(StatementError("no", SQL, None, error)) is error
