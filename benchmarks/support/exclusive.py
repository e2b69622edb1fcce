"""Several benchmarks beside each other: all make their engines ready at once, then they measure one after the other."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

TURNS = "MINDPRINT_BENCHMARK_TURNS"
"""The folder that those who take turns share; without it a benchmark measures at once."""
LOCK, READY = "lock", ".ready"


@asynccontextmanager
async def exclusive_turn() -> AsyncIterator[None]:
    """Says that this process is ready, waits until nobody else measures, and keeps the others waiting in the block."""
    if (named := os.environ.get(TURNS)) is None:
        yield
        return
    folder = Path(named)
    with (folder / LOCK).open("a") as stream:
        (folder / f"{os.getpid()}{READY}").touch()
        await asyncio.to_thread(fcntl.flock, stream, fcntl.LOCK_EX)
        yield  # closing the file lets the next one begin
