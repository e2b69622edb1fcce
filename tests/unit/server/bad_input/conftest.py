"""Services on a scripted engine, opened with other settings by each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mindprint_server.settings import Settings
from mindprint_server.wiring import Services
from odd_batches import ONE_BY_ONE, Open
from scripted import Scripted, serving


@pytest.fixture
async def serve(settings: Settings, base_folder: Path) -> AsyncIterator[Open]:
    """Opens services on an engine, with some settings changed."""
    async with AsyncExitStack() as stack:

        async def open(engine: Scripted | None = None, **changes: Any) -> Services:
            engine = engine or Scripted()
            engine.read_model_of(base_folder)
            changed = settings.model_copy(update=ONE_BY_ONE | changes)
            return await stack.enter_async_context(serving(changed, engine))

        yield open
