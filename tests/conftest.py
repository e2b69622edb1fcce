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
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from mindprint.types import DEFAULT_TENANT
from mindprint_server.tenancy import enter_tenant

# Tests work on this tenant. The server's own tasks inherit none of it: they begin in an empty context.
enter_tenant(DEFAULT_TENANT)
pytest.register_assert_rewrite("engine_protocol")

# No test is decided by the clock.
hypothesis.settings.register_profile("mindprint", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("mindprint")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Choose the engine of `tests/engine`."""
    parser.addoption("--engine", default="vllm", help="value of the setting `engine` for tests/engine (default: vllm)")


REAL_ENGINE = ("tests/engine/", "tests/e2e/")
"""Tests that start real engines. They run in one process, for each engine uses all cores."""
SLOW_FIRST = (*REAL_ENGINE, "tests/trust/")
"""What begins first when several processes share the tests, so that none of them ends long after the others."""


def _start_rank(nodeid: str) -> int:
    return next((rank for rank, prefix in enumerate(SLOW_FIRST) if nodeid.startswith(prefix)), len(SLOW_FIRST))


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Sends the tests of a file to one process of pytest-xdist, and all with a real engine."""

    def _split_scope(self, nodeid: str) -> str:
        return "real engine" if nodeid.startswith(REAL_ENGINE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    """Schedule by file. `--dist=loadgroup` would need no class, and does nothing with pytest 9.2."""
    config.option.loadscopereorder = False  # by the number of tests: the slowest files have the fewest
    return FileScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the slow tests in a process of pytest-xdist."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _start_rank(item.nodeid))


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
