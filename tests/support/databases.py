"""Databases for tests: SQLite files, schemas of a PostgreSQL server, and a pooler in front of it.

MINDPRINT_TEST_POSTGRES names a server that must answer (the checks before a merge do), or is `off`. Without it the
local one is used if it answers; if not, its tests are skipped and the summary says so.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest

NAMED = os.environ.get("MINDPRINT_TEST_POSTGRES")
POSTGRES = NAMED or "postgres@127.0.0.1:5432/test"


async def on_postgres(command: str) -> None:
    try:
        admin = await asyncpg.connect(f"postgresql://{POSTGRES}", timeout=10)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        message = f"PostgreSQL does not answer at {POSTGRES} ({error!r}): name one that does in MINDPRINT_TEST_POSTGRES"
        if NAMED is None:
            pytest.skip(message)
        pytest.fail(message, pytrace=False)
    await admin.execute(command)
    await admin.close()


@asynccontextmanager
async def new_database(dialect: str, folder: Path) -> AsyncIterator[str]:
    """The URL of a database of its own, without tables."""
    if dialect == "sqlite":
        yield f"sqlite+aiosqlite:///{folder / 'data' / 'store.db'}"
        return
    schema = f"mindprint_{uuid4().hex}"
    await on_postgres(f"CREATE SCHEMA {schema}")
    try:
        yield f"postgresql+asyncpg://{POSTGRES}?search_path={schema}&application_name={schema}"
    finally:
        await on_postgres(f"DROP SCHEMA {schema} CASCADE")


async def end_sessions(url: str) -> None:
    """End all sessions of the servers on a database that `new_database` made, as an administrator does."""
    name = url.rpartition("application_name=")[2]
    ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'"
    await on_postgres(ended)
