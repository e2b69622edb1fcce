"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from chat_room import Engine, Room
from mindprint_server.settings import Settings
from samples import engagement
from scripted import serving
from uploads import published


@pytest.fixture
async def room(settings: Settings, base_folder: Path, tmp_path: Path) -> AsyncIterator[Room]:
    """Ann has a live version, bob none."""
    async with AsyncExitStack() as stack:
        engine = Engine(base_folder)
        services = await stack.enter_async_context(serving(settings, engine))
        await services.store.engagements.add("ann", [engagement(n + 100) for n in range(3)])
        await services.store.engagements.add("bob", [engagement(0)])
        await published(services, tmp_path)
        yield Room(services, engine)
