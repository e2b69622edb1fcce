"""The client for asyncio code. Its methods are described in `mindprint.endpoints`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx

from mindprint._methods import AsyncSender, Pause, Steps, take_step
from mindprint.endpoints import Resources
from mindprint.exceptions import ConnectionFailed, MindprintError
from mindprint.retry import Retries
from mindprint.transport import (
    Call,
    Download,
    Stream,
    Timeouts,
    broken_off,
    client_options,
    find_url,
    our_errors,
    refusal,
    request_parts,
)

T = TypeVar("T")


class AsyncMindprintClient(Resources[AsyncSender]):
    """A client of one server. Tasks may share it. Use it in an `async with` block, or `aclose` it.

    Use `contextlib.aclosing` around a stream that may be left before its end.
    Every method raises a MindprintError: ApiError (refused), ConnectionFailed, BadReply or InvalidRequest.

    Attributes:
        url: The server's address.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeouts: Timeouts = Timeouts(),
        retries: Retries = Retries(),
        reconnects: Retries = Retries(attempts=20),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Prepare the client. Nothing is sent yet.

        Args:
            url: The server's address; None takes MINDPRINT_URL or http://127.0.0.1:8300.
            api_key: Sent as a bearer token; None takes MINDPRINT_API_KEY, if that is set.
            timeouts: Bounds on connecting and reading.
            retries: How often a failed call is repeated.
            reconnects: How often `batches.watch` opens a broken stream again before it gives up.
            transport: httpx's transport, for tests and proxies.

        Raises:
            InvalidRequest: `url` is no HTTP address.
        """
        super().__init__(self)
        self.url = find_url(url)
        self._timeouts = timeouts
        self._retries = retries
        self._reconnects = reconnects
        self._http = httpx.AsyncClient(transport=transport, **client_options(self.url, api_key, timeouts))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Return whether the server runs and its engine takes requests. Asks once and raises nothing."""
        try:
            return (await self._http.get("/readyz")).is_success
        except httpx.HTTPError:
            return False

    async def send(self, call: Call[T]) -> T:
        """Make a call, repeat it where that is safe, and return its reply.

        Raises:
            MindprintError: ApiError when the server refuses the call, ConnectionFailed, BadReply or InvalidRequest.
        """
        async for attempt in self._retries.run(repeatable=call.repeatable):
            with attempt:
                return call.read(await self._open(call))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stream(self, stream: Stream[T]) -> AsyncGenerator[T]:
        """Make a call and yield the items of its reply as they come, in constant memory."""
        return self._follow(stream, stream.final) if stream.final else self._once(stream)

    async def fetch(self, download: Download[T]) -> T:
        """Make a call and write its reply to disk while it arrives. A broken download starts again.

        Raises:
            MindprintError: ApiError when the server refuses the call, ConnectionFailed, BadReply or InvalidRequest.
        """
        async for attempt in self._retries.run(repeatable=download.call.repeatable):
            with attempt, download.opened() as sink:
                response = await self._open(download.call, streamed=True)
                try:
                    with our_errors(self.url):
                        async for chunk in response.aiter_bytes():
                            sink.write(chunk)
                finally:
                    await response.aclose()
                return await asyncio.to_thread(sink.finish)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def follow(self, steps: Steps[T]) -> T:
        """Make the calls of a workflow, one after the other, and return its result.

        Raises:
            MindprintError: A call failed, or the workflow itself did.
        """
        step, result = take_step(steps, None)
        while step is not None:
            step, result = take_step(steps, await self._take(step))
        return cast(T, result)

    async def _take(self, step: Call[Any] | Pause) -> Any:
        """Return the reply to a call of a workflow, or its error; after a pause the time."""
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return time.monotonic()
        try:
            return await self.send(step)
        except MindprintError as error:
            return error

    async def _once(self, stream: Stream[T]) -> AsyncGenerator[T]:
        """Repeat the call only until the reply begins, because yielded items cannot be withdrawn."""
        async for attempt in self._retries.run(repeatable=stream.call.repeatable):
            with attempt:
                response = await self._open(stream.call, streamed=True)
        async with aclosing(self._read(response, stream)) as items:
            async for item in items:
                yield item

    async def _follow(self, stream: Stream[T], final: Callable[[T], bool]) -> AsyncGenerator[T]:
        """Open the stream again where it breaks. Each item renews the number of attempts.

        Once the stream has begun, the waits are long enough for a restart of the server.
        """
        items: AsyncGenerator[T] | None = None
        last: T | None = None
        try:
            while True:
                async for attempt in (self._reconnects if last else self._retries).run(repeatable=True):
                    with attempt:
                        items = items or self._read(await self._open(stream.call, streamed=True), stream)
                        try:
                            item = await anext(items)
                        except (ConnectionFailed, StopAsyncIteration) as error:
                            items = None
                            raise broken_off(self.url, error) from error
                if item != last:  # a stream that is opened again begins with the last item
                    yield item
                if final(item):
                    return
                last = item
        finally:
            if items is not None:
                await items.aclose()

    async def _open(self, call: Call[Any], *, streamed: bool = False) -> httpx.Response:
        """Make one attempt. A streamed response is returned open, and the caller closes it."""
        with our_errors(self.url), request_parts(call, self._timeouts, streamed=streamed) as parts:
            response = await self._http.send(self._http.build_request(**parts), stream=streamed)
            if response.is_success:
                return response
            await response.aread()
        raise refusal(response)

    async def _read(self, response: httpx.Response, stream: Stream[T]) -> AsyncGenerator[T]:
        decoder = stream.decoder()
        try:
            with our_errors(self.url):
                async for chunk in response.aiter_bytes():
                    for item in decoder.feed(chunk):
                        yield item
            for item in decoder.end():
                yield item
        finally:
            await response.aclose()
