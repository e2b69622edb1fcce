"""The protocol's contracts on the fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine_protocol import EngineProtocol
from mindprint_server.engine import Engine
from mindprint_server.engine.factory import create_engine
from mindprint_server.settings import Settings


@pytest.fixture
def engine_settings(settings: Settings) -> Settings:
    return settings


@pytest.fixture
def start_phases() -> list[str]:
    return []


@pytest.fixture
async def engine(engine_settings: Settings, start_phases: list[str]) -> AsyncIterator[Engine]:
    running = create_engine(engine_settings)
    await running.start(start_phases.append)
    yield running
    await running.stop()
    assert not running.ready


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Folders that do not exist: the fake engine reads no adapter."""
    return [tmp_path / "one", tmp_path / "two"]


class TestFakeEngine(EngineProtocol):
    """All of them hold."""
