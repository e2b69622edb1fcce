"""The database's URL, as people have it: read, completed, and shown without its secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from mindprint_server.store.exceptions import StoreError

DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
LIBPQ = frozenset(
    {
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "passfile", "krbsrvname"),
    }
)
"""Parameters of libpq that asyncpg reads in a DSN of its own, as libpq does."""
FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
"""Parameters that name a file."""
ADDRESS = frozenset({"host", "port"})
"""Parameters that SQLAlchemy reads: a socket's folder, several hosts."""
SESSION = ("search_path", "application_name", "connect_timeout")


@dataclass(frozen=True)
class DatabaseUrl:
    """A URL, split into what each library reads.

    Attributes:
        url: Driver, login and address, for SQLAlchemy.
        dsn: libpq's parameters, as a DSN for asyncpg; empty for none.
        search_path: Schemas of PostgreSQL; None leaves the database's own.
        application_name: How PostgreSQL names the connections.
        connect_timeout_s: Bound of a connect; None leaves the server's.
    """

    url: URL
    dsn: str = field(default="", repr=False)
    search_path: str | None = None
    application_name: str = "mindprint"
    connect_timeout_s: float | None = None

    def is_missing_file(self) -> bool:
        """Return whether this is a SQLite file that does not exist."""
        return self.url.drivername.startswith("sqlite") and not Path(str(self.url.database)).is_file()

    def __str__(self) -> str:
        """Return the URL without its password and parameters, which may hold secrets, and with the search path."""
        shown = self.url.set(query={}).render_as_string(hide_password=True)
        return shown if self.search_path is None else f"{shown} (search_path {self.search_path})"


def parse_url(text: str) -> DatabaseUrl:
    """Read the URL of a database.

    Args:
        text: `sqlite:///PATH`, `postgres://...` or `postgresql://...`, the latter also with `+asyncpg`, and with
            parameters as libpq reads them.

    Raises:
        StoreError: The URL cannot be read, or names another driver, an unknown parameter or a missing file. The
            message holds no part of the URL, but for the names of the driver and of parameters.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StoreError(
            f"the database URL cannot be read: use {_forms()}, and percent-encode special characters in the password"
        ) from None
    driver = DRIVERS.get(url.drivername)
    if driver is None:
        raise StoreError(f"no database driver {url.drivername!r}: use {_forms()}")
    url = url.set(drivername=driver)
    if driver.startswith("sqlite"):
        return DatabaseUrl(url)
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
    query = {"sslmode" if name == "ssl" else name: value for name, value in query.items()}
    if unknown := sorted(set(query) - LIBPQ - ADDRESS - set(SESSION)):
        raise StoreError(f"the database URL has unsupported parameters: remove {', '.join(unknown)}")
    if missing := sorted(name for name in FILES & set(query) if not Path(query[name]).is_file()):
        raise StoreError(f"the database URL names files that do not exist: correct {', '.join(missing)}")
    libpq = {name: value for name, value in query.items() if name in LIBPQ}
    return DatabaseUrl(
        url=url.difference_update_query([name for name in url.query if name not in ADDRESS]),
        dsn=f"postgresql://?{urlencode(libpq)}" if libpq else "",
        search_path=query.get("search_path"),
        application_name=query.get("application_name", "mindprint"),
        connect_timeout_s=_seconds(query.get("connect_timeout")),
    )


def sqlite_file(text: str) -> Path | None:
    """Return the file of a SQLite URL; None for another database.

    Raises:
        StoreError: See `parse_url`.
    """
    url = parse_url(text).url
    return Path(str(url.database)) if url.drivername.startswith("sqlite") else None


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise StoreError("connect_timeout in the database URL is not a number: give seconds") from None


def _forms() -> str:
    return "sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
