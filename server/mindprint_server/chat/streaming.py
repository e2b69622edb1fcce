"""Streams answers, and cancels the work of callers who disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from mindprint_server.adapters.health import Outcome
from mindprint_server.exceptions import ClientGone

Result = TypeVar("Result")


async def stream_answer(
    lines: AsyncIterator[str],
    *,
    first: Callable[[str], str],
    report: Callable[[Outcome], Awaitable[None]],
    stack: AsyncExitStack,
) -> AsyncIterator[str]:
    """Pass on the lines of an event stream, and report how it ended.

    Args:
        lines: Lines of the event stream of the chat backend.
        first: Rewrites the first line.
        report: Called with `fine` or `failed` at the end.
        stack: Closed at the end: it holds the adapter and the admission of the request.
    """
    async with stack:
        is_first = True
        try:
            async for line in lines:
                yield first(line) if is_first else line
                is_first = False
        except Exception:
            await report("failed")
            raise
        await report("fine")


async def cancel_on_disconnect(disconnect: Coroutine[Any, Any, None], work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` and return its result; cancel it when the caller disconnects.

    Args:
        disconnect: Returns when the caller disconnected.
        work: The work.

    Raises:
        ClientGone: The caller disconnected.
    """
    task, watcher = asyncio.create_task(work), asyncio.create_task(disconnect)
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("client_closed_request", "the caller closed the connection before the answer")
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
