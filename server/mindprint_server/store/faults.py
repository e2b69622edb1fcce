"""What the database's own errors mean to callers: busy, full, or failed. No SQL and no parameter leaves this module."""

from __future__ import annotations

import sqlite3
import ssl

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mindprint_server.store.exceptions import StoreBusy, StoreFailed, StoreFull

DATABASE_ERRORS = (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that a call of the database may raise. A connect raises the network's and asyncpg's errors unchanged."""

BUSY_SQLSTATES = {
    "08": "the connection was lost",
    "25006": "the database is read-only now",
    "40": "two transactions were in conflict",
    "53": "the database lacks resources",
    "53300": "the database has too many connections",
    "55P03": "another transaction holds a lock",
    "57014": "the database ended the statement",
    "57P": "the database is starting or stopping",
    "58": "the database's system reports an error",
}
"""SQLSTATEs, and their first characters, after which the same call may succeed. The longest that fits counts."""
FULL_SQLSTATE = "53100"
POOLER_SQLSTATE = "08P01"
"""What poolers say of themselves, such as `no such user`. The message is shown: it holds names, never SQL."""
UNKNOWN_SQLSTATE = "40003"
"""A transaction of which the database itself does not know whether it was committed."""
SPOKEN_SQLSTATES = ("28", "3D", "3F", "42501")
"""States (login, unknown database or schema, no permission) whose message is shown: it holds names, never SQL."""

NO_TLS_WORDS = "rejected SSL upgrade"
"""Words of asyncpg's `ConnectionError` of a server that takes no TLS."""
LOST_WORDS = ("clos", "another operation")
"""Words of asyncpg's `InterfaceError` on a connection that has ended. Its other ones are faults of a program."""

BUSY_SQLITE = {
    sqlite3.SQLITE_BUSY: "another process is writing",
    sqlite3.SQLITE_LOCKED: "another connection holds a lock",
    sqlite3.SQLITE_PROTOCOL: "another process holds a lock",
    sqlite3.SQLITE_NOMEM: "there is no free memory",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_READONLY: "the file is read-only now",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
}
"""Primary result codes of SQLite after which the same call may succeed."""
FAILED_SQLITE = {sqlite3.SQLITE_NOTADB: "the file is not a database", sqlite3.SQLITE_CORRUPT: "the file is damaged"}


def translate(error: Exception) -> Exception:
    """Return what is raised in place of an error of the database.

    Args:
        error: One of `DATABASE_ERRORS`.

    Returns:
        StoreBusy, StoreFull or StoreFailed; a value that cannot be stored keeps its own error.
    """
    if isinstance(error, PoolTimeout):
        return StoreBusy("every connection is in use")
    if isinstance(error, DBAPIError):
        return _of_driver(error.orig or error, is_lost=error.connection_invalidated)
    if isinstance(error, StatementError):
        return error.orig if isinstance(error.orig, Exception) else StoreFailed(type(error).__name__)
    if isinstance(error, SQLAlchemyError):
        return StoreFailed(type(error).__name__)
    return _of_driver(error, is_lost=False)


def translate_commit(error: Exception) -> Exception:
    """Return what is raised in place of an error of a commit. After a lost connection it may have been done.

    Args:
        error: One of `DATABASE_ERRORS`.
    """
    told = translate(error)
    if not isinstance(told, StoreBusy) or _is_undone(error):
        return told
    return StoreBusy(told.why, "the database may have stored the change or not", is_outcome_unknown=True)


def _is_undone(error: Exception) -> bool:
    """Return whether the database itself says that it refused a commit: a lock is held, or transactions conflict."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if (code := getattr(cause, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    sqlstate = getattr(cause, "sqlstate", None) or ""
    return sqlstate.startswith("40") and sqlstate != UNKNOWN_SQLSTATE


def _of_driver(error: BaseException, *, is_lost: bool) -> Exception:
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return _of_sqlite(code, getattr(error, "sqlite_errorname", ""))
    if sqlstate := getattr(error, "sqlstate", None):
        return _of_postgres(sqlstate, error)
    # An error without a code comes from the network, or from the driver on a connection that has ended.
    if is_lost or isinstance(error, TimeoutError):
        return StoreBusy("the connection was lost" if is_lost else "it does not answer in time")
    if why := _why_no_tls(error):
        return StoreFailed(why)
    if isinstance(error, OSError):
        return StoreBusy(f"no connection: {error.strerror or error or type(error).__name__}")
    if isinstance(_cause(error), asyncpg.ClientConfigurationError):
        return StoreFailed(_in_one_line(_cause(error)))
    if isinstance(_cause(error), asyncpg.InterfaceError) and any(word in str(error) for word in LOST_WORDS):
        return StoreBusy("the connection was lost")
    # asyncpg 0.32: a session that ends during a statement leaves its protocol in a state that refuses the next one.
    if isinstance(_cause(error), asyncpg.InternalClientError):
        return StoreBusy("the connection was lost")
    return StoreFailed(type(_cause(error)).__name__)


def _why_no_tls(error: BaseException) -> str | None:
    """Return what is wrong with the TLS of a connect, which trying again does not cure; None for another error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is refused ({error.verify_message.rstrip('.')}): correct sslrootcert or the certificate"
        )
    if isinstance(error, ssl.SSLError) and error.library in ("X509", "PEM"):
        return "a file of certificates cannot be read: correct sslrootcert, sslcert and sslkey"
    if isinstance(error, ConnectionError) and NO_TLS_WORDS in str(error):
        return "it takes no TLS: enable ssl there, or choose another sslmode"
    return None


def _of_sqlite(code: int, name: str) -> Exception:
    primary = code & 0xFF
    if primary == sqlite3.SQLITE_FULL or name == "SQLITE_IOERR_SHMSIZE":
        return StoreFull()
    if why := BUSY_SQLITE.get(primary):
        return StoreBusy(why)
    return StoreFailed(FAILED_SQLITE.get(primary) or name)


def _of_postgres(sqlstate: str, error: BaseException) -> Exception:
    if sqlstate == FULL_SQLSTATE:
        return StoreFull()
    if sqlstate == POOLER_SQLSTATE:
        return StoreBusy(_in_one_line(_cause(error)))
    for length in (5, 3, 2):
        if why := BUSY_SQLSTATES.get(sqlstate[:length]):
            return StoreBusy(why)
    if sqlstate.startswith(SPOKEN_SQLSTATES):
        return StoreFailed(_in_one_line(_cause(error)))
    return StoreFailed(f"{type(_cause(error)).__name__}, SQLSTATE {sqlstate}")


def _in_one_line(error: BaseException) -> str:
    """Return what an error says; asyncpg adds lines with details and hints."""
    return " ".join(str(error).split())


def _cause(error: BaseException) -> BaseException:
    """Return asyncpg's own error, which SQLAlchemy's adapter wraps."""
    return error.__cause__ or error
