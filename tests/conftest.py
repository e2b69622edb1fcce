"""What holds for all tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

pytest.register_assert_rewrite("engine_protocol")

# No test is decided by the clock.
hypothesis.settings.register_profile("mindprint", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("mindprint")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Choose the engine of `tests/engine`."""
    parser.addoption("--engine", default="vllm", help="value of the setting `engine` for tests/engine (default: vllm)")


def _commit_without_waiting_for_the_disk(connection: Any, _record: object) -> None:
    """Skip fsync: no test cuts the power, and a busy disk takes up to 160 ms for one."""
    is_sqlite = "sqlite" in type(connection).__module__
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = OFF" if is_sqlite else "SET synchronous_commit = off")
    cursor.close()
    connection.commit()


event.listen(Pool, "connect", _commit_without_waiting_for_the_disk)


@pytest.fixture
def durable_commits() -> Iterator[None]:
    """Connections of this test keep the store's own settings, which wait for the disk."""
    event.remove(Pool, "connect", _commit_without_waiting_for_the_disk)
    yield
    event.listen(Pool, "connect", _commit_without_waiting_for_the_disk)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with its tables. A test that copies it into its data folder does not wait for the migrations."""
    from mindprint_server.store import Store

    path = tmp_path_factory.mktemp("empty") / "mindprint.db"

    async def make() -> None:
        await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()

    asyncio.run(make())
    return path
