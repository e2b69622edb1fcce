"""What holds for all tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import hypothesis
import pytest

# No test is decided by the clock.
hypothesis.settings.register_profile("mindprint", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("mindprint")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with its tables. A test that copies it into its data folder does not wait for the migrations."""
    from mindprint_server.store import Store

    path = tmp_path_factory.mktemp("empty") / "mindprint.db"

    async def make() -> None:
        await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()

    asyncio.run(make())
    return path
