"""How a database gets from one release's tables to the next's: by hand; a test holds them against `tables.py`."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from ..errors import StoreError


def upgrade(connection: Connection) -> None:
    """Brings the tables to the newest revision, inside the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", "mindprint_server.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"the database is of another release of mindprint, perhaps a newer one: {error}") from error
