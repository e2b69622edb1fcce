"""A whole server with the fake engine, whose erasures run when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lives import Gate, Open, lives
from mindprint_server.settings import Settings


@pytest.fixture
async def serve(settings: Settings, base_folder: Path) -> AsyncIterator[Open]:
    async with lives(settings.model_copy(update={"erasure_poll_s": 3600}), base_folder, Gate()) as open:
        yield open
