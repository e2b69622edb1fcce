"""Streams answers, and cancels the work of callers who disconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from mindprint_server.adapters.health import Outcome
from mindprint_server.exceptions import ClientGone, ServerError, Unavailable
from mindprint_server.operation.shutdown import Cutoff

Result = TypeVar("Result")


async def stream_answer(
    lines: AsyncIterator[str],
    *,
    cutoff: Cutoff,
    first: Callable[[str], str],
    report: Callable[[Outcome], Awaitable[None]],
    stack: AsyncExitStack,
) -> AsyncIterator[str]:
    """Pass on the lines of an event stream, and report how it ended.

    Args:
        lines: Lines of the event stream of the chat backend.
        cutoff: Ends the stream with an error event when the server stops.
        first: Rewrites the first line.
        report: Called with `fine` or `failed` at the end.
        stack: Closed at the end: it holds the adapter and the admission of the request.
    """
    async with stack:
        is_first = True
        try:
            async for line in cutoff.pass_on(lines):
                yield first(line) if is_first else line
                is_first = False
        except Unavailable as error:
            # The server stops: this is no fault of the version.
            yield error_event(error)
            return
        except Exception:
            await report("failed")
            raise
        await report("fine")


def error_event(error: ServerError) -> str:
    """Return an error as an event of OpenAI's stream."""
    content = {"message": error.message, "type": "server_error", "code": error.code, "param": error.param}
    return f"data: {json.dumps({'error': content})}\n\n"


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
