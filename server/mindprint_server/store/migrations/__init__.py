"""How a database gets from one release's tables to the next's: by hand; a test holds them against `tables.py`."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from mindprint_server.store.exceptions import StoreError


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Brings the tables to a revision, the newest unless told otherwise, inside the caller's transaction."""
    try:
        command.upgrade(_config(connection), revision)
    except CommandError as error:
        raise StoreError(f"the database is of another release of mindprint, perhaps a newer one: {error}") from error


def downgrade(connection: Connection, revision: str) -> None:
    """Takes the tables back to an older revision, inside the caller's transaction; what only newer ones hold goes."""
    command.downgrade(_config(connection), revision)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "mindprint_server.store:migrations")
    config.attributes["connection"] = connection
    return config
