"""Streams answers while they are made, and cancels the work of callers who disconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import structlog

from mindprint_server.engine import EngineDied, PromptTooLong
from mindprint_server.exceptions import (
    ClientGone,
    Invalid,
    LimitExceeded,
    ServerError,
    Unavailable,
    clean,
    engine_dead,
)
from mindprint_server.operation.shutdown import Cutoff

log = structlog.get_logger(__name__)

Result = TypeVar("Result")
PING = ": ping\n\n"
"""A comment of an event stream, which clients ignore."""
MAX_LINES = 1
"""Lines that wait for a reader. The work then waits too: vLLM joins what it writes meanwhile in one event."""


class AnswerStream:
    """The event stream of an answer: a task sends the lines, and the response reads them.

    Attributes:
        has_begun: Whether a line was sent.

    Args:
        max_silence_s: Seconds after which the reader gets a comment in place of a line.
        cutoff: Ends the stream with an error when the server stops.
        on_first: Called when the first line is sent.
        max_stall_s: Seconds for which a line waits for the reader. Then the work ends.
        on_error: Called with an error that is sent as the last event.
    """

    def __init__(
        self,
        max_silence_s: float,
        cutoff: Cutoff,
        on_first: Callable[[], None],
        *,
        max_stall_s: float | None = None,
        on_error: Callable[[ServerError], None] = lambda error: None,
    ) -> None:
        self.has_begun = False
        self._max_silence_s = max_silence_s
        self._cutoff = cutoff
        self._on_first = on_first
        self._max_stall_s = max_stall_s
        self._on_error = on_error
        self._lines: asyncio.Queue[str | Exception | None] = asyncio.Queue(MAX_LINES)
        self._task: asyncio.Task[None] | None = None

    async def send(self, line: str) -> None:
        """Send a line. Wait while the reader is slow.

        Raises:
            ClientGone: Nothing was read for `max_stall_s`.
        """
        if not self.has_begun:
            self.has_begun = True
            self._on_first()
        try:
            async with asyncio.timeout(self._max_stall_s) as limit:
                await self._lines.put(line)
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"nothing of the answer was read for {self._max_stall_s:g} s: read streams as they come"
            raise ClientGone("reader_stalled", message) from None

    async def begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncGenerator[str]:
        """Start the work, wait for its first line, for `max_silence_s` at most, and return all lines.

        Args:
            work: Makes the answer, and sends its lines. It keeps the tenant of this context, whoever reads them.

        Returns:
            The lines. Close them at the end.

        Raises:
            Exception: The work ended with this before its first line.
        """
        self._task = asyncio.create_task(self._run(work), name="answer-stream")
        try:
            lines = self._read(await self._next())
        except BaseException:
            await self._close()
            raise
        # Python closes a generator that began, at the latest when nobody has it any more. One that never began would
        # hold for ever what it should give back.
        await anext(lines)
        return lines

    async def _run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as error:
            await self._lines.put(error)
        else:
            await self._lines.put(None)

    async def _read(self, first: str | None) -> AsyncGenerator[str]:
        try:
            yield ""
            async with aclosing(self._from(first)) as lines:
                async for line in self._cutoff.pass_on(lines):
                    yield line
        except Exception as error:
            known = as_server_error(error)
            log.warning("a stream ended with an error", code=known.code, why=clean(known.message))
            self._on_error(known)
            yield error_event(known)
        finally:
            await self._close()

    async def _from(self, line: str | None) -> AsyncGenerator[str]:
        while line is not None:
            yield line
            line = await self._next()

    async def _next(self) -> str | None:
        """Return the next line, or a comment where none comes in time; None at the end."""
        try:
            async with asyncio.timeout(self._max_silence_s):
                line = await self._lines.get()
        except TimeoutError:
            if self._task is not None and self._task.cancelled():
                message = "the work on this answer was stopped: ask again"
                raise Unavailable("internal_error", message) from None
            return PING
        if isinstance(line, Exception):
            raise line
        return line

    async def _close(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def error_event(error: ServerError) -> str:
    """Return the event with which a stream ends that could not be finished, in the form of OpenAI's errors."""
    content = {"message": clean(error.message), "type": _type_of(error), "code": error.code, "param": error.param}
    return f"data: {json.dumps({'error': content}, ensure_ascii=False)}\n\n"


def as_server_error(error: Exception) -> ServerError:
    """Return an error as one that a caller may see. The status is sent already, so that it has to say it all."""
    match error:
        case ServerError():
            return error
        case EngineDied():
            return engine_dead()
        case PromptTooLong():
            return Invalid("prompt_too_long", str(error), param="messages")
        case TimeoutError():
            return Unavailable(
                "timeout", "not done in time: ask for fewer tokens, or retry when the server is less busy"
            )
    log.error("a stream failed", exc_info=error)
    return Unavailable("internal_error", "the server failed on this request: retry, and report its X-Request-Id")


def _type_of(error: ServerError) -> str:
    if error.is_server_fault:
        return "server_error"
    return "rate_limit_error" if isinstance(error, LimitExceeded) else "invalid_request_error"


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
