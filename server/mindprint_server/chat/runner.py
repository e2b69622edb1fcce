"""Runs the work of one answer, whole or streamed: its time limit, its reader, and how its version did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from mindprint_server.adapters import AdapterService
from mindprint_server.chat.fallback import is_adapter_fault
from mindprint_server.chat.progress import Progress
from mindprint_server.chat.streaming import AnswerStream, cancel_on_disconnect
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.tenancy import tenant_or_none


@dataclass(frozen=True)
class ChatReply:
    """What a caller receives.

    Attributes:
        model: The version that answers; `base` is the base model. None for a stream that begins before it is chosen.
        content: The whole answer in OpenAI's form, or the lines of its event stream. The stream holds the adapter and
            the admission of the request until it ends, so that it has to be read or closed.
    """

    model: str | None
    content: dict[str, Any] | AsyncGenerator[str]


@dataclass(frozen=True)
class Answer:
    """An answer of the backend.

    Attributes:
        content: The whole answer, or the lines of its event stream.
        judged: The version that its end is counted for; None if it says nothing about one.
        provenance: What made it, for `mindprint`.
    """

    content: dict[str, Any] | AsyncGenerator[str]
    judged: AdapterRef | None
    provenance: Mapping[str, Any]


Make = Callable[[AsyncExitStack], Awaitable[Answer]]
"""Makes an answer. What the answer needs until it ends goes on the stack."""


class AnswerRunner:
    """Runs answers, and ends their work when the caller leaves.

    Args:
        ctx: Settings and metrics of the server.
        adapters: Is told how versions did.
    """

    def __init__(self, ctx: ServerContext, adapters: AdapterService) -> None:
        self._ctx = ctx
        self._settings = ctx.settings
        self._adapters = adapters

    async def run_whole(self, make: Make, disconnect: Coroutine[Any, Any, None]) -> Answer:
        """Make a whole answer.

        Raises:
            ClientGone: The caller disconnected.
            TimeoutError: It was not done within `request_timeout_s`.
        """
        started = time.monotonic()
        # The time limit is outside: vLLM answers a cancelled request with an error, which must not become the reply.
        async with asyncio.timeout(self._settings.request_timeout_s):
            answer = await cancel_on_disconnect(disconnect, self._finish(make))
        self._ctx.metrics.first_token_seconds.observe(time.monotonic() - started)
        return answer

    async def _finish(self, make: Make) -> Answer:
        async with AsyncExitStack() as stack:
            answer = await make(stack)
            await self._adapters.report_outcome(answer.judged, "fine")
            return answer

    def create_stream(self) -> AnswerStream:
        """Return the stream of an answer, which has not begun."""
        started, metrics, tenant = time.monotonic(), self._ctx.metrics, tenant_or_none() or ""
        return AnswerStream(
            self._settings.stream_max_silence_s,
            self._ctx.shutdown.answering,
            lambda: metrics.first_token_seconds.observe(time.monotonic() - started),
            max_stall_s=self._settings.stream_max_stall_s,
            on_error=lambda error: metrics.refusals.labels(tenant=tenant, code=error.code).inc(),
        )

    async def run_stream(
        self,
        stream: AnswerStream,
        make: Make,
        create_writer: Callable[[Answer], Callable[[str], str]],
        progress: Progress,
        disconnect: Coroutine[Any, Any, None],
    ) -> ChatReply:
        """Begin the stream of an answer.

        Args:
            stream: Gets the lines.
            make: Makes the answer.
            create_writer: Returns what completes the backend's lines one by one.
            progress: Knows the model that answers.
            disconnect: Returns when the caller disconnected.

        Raises:
            ClientGone: The caller disconnected.
            TimeoutError: The answer did not begin within `request_timeout_s`.
        """
        beginning = stream.begin(partial(self._write, stream, make, create_writer))
        lines = await cancel_on_disconnect(disconnect, beginning)
        return ChatReply(progress.model, lines)

    async def _write(
        self, stream: AnswerStream, make: Make, create_writer: Callable[[Answer], Callable[[str], str]]
    ) -> None:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._settings.request_timeout_s):
                answer = await make(stack)
            assert not isinstance(answer.content, dict)
            write = create_writer(answer)
            # Closed before the version is let go, so that the engine writes with it no more.
            lines = await stack.enter_async_context(aclosing(answer.content))
            try:
                async for line in lines:
                    await stream.send(write(line))
            except Exception as error:
                if is_adapter_fault(error):
                    await self._adapters.report_outcome(answer.judged, "failed")
                raise
            await self._adapters.report_outcome(answer.judged, "fine")
