"""Migrations from one release's tables to the next. They are written by hand; a test compares them with `tables.py`."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from mindprint_server.store.exceptions import StoreError


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Migrate the tables to a revision inside the caller's transaction.

    Raises:
        StoreError: The database is of a release that these migrations do not know.
    """
    try:
        command.upgrade(_config(connection), revision)
    except CommandError as error:
        raise StoreError(f"the database is of another release of mindprint, perhaps a newer one: {error}") from error


def current(connection: Connection) -> str | None:
    """Return the revision of the tables; None for a database without tables."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """Return the revision of this release."""
    config = Config()
    config.set_main_option("script_location", "mindprint_server.store:migrations")
    return str(ScriptDirectory.from_config(config).get_current_head())


def downgrade(connection: Connection, revision: str) -> None:
    """Migrate the tables back to an older revision inside the caller's transaction; newer columns are lost."""
    command.downgrade(_config(connection), revision)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "mindprint_server.store:migrations")
    config.attributes["connection"] = connection
    return config
