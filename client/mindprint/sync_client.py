"""The client for synchronous code. Its methods are described in `mindprint.endpoints`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx

from mindprint._methods import Pause, Sender, Steps, take_step
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


class MindprintClient(Resources[Sender]):
    """A client of one server. Threads may share it. Use it in a `with` block, or close it.

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
        transport: httpx.BaseTransport | None = None,
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
        self._http = httpx.Client(transport=transport, **client_options(self.url, api_key, timeouts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def ready(self) -> bool:
        """Return whether the server runs and its engine takes requests. Asks once and raises nothing."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.HTTPError:
            return False

    def send(self, call: Call[T]) -> T:
        """Make a call, repeat it where that is safe, and return its reply.

        Raises:
            MindprintError: ApiError when the server refuses the call, ConnectionFailed, BadReply or InvalidRequest.
        """
        for attempt in self._retries.run(repeatable=call.repeatable):
            with attempt:
                return call.read(self._open(call))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stream(self, stream: Stream[T]) -> Generator[T]:
        """Make a call and yield the items of its reply as they come, in constant memory."""
        return self._follow(stream, stream.final) if stream.final else self._once(stream)

    def fetch(self, download: Download[T]) -> T:
        """Make a call and write its reply to disk while it arrives. A broken download starts again.

        Raises:
            MindprintError: ApiError when the server refuses the call, ConnectionFailed, BadReply or InvalidRequest.
        """
        for attempt in self._retries.run(repeatable=download.call.repeatable):
            with attempt, download.opened() as sink:
                response = self._open(download.call, streamed=True)
                try:
                    with our_errors(self.url):
                        for chunk in response.iter_bytes():
                            sink.write(chunk)
                finally:
                    response.close()
                return sink.finish()
        raise AssertionError("unreachable: the last attempt returns or raises")

    def follow(self, steps: Steps[T]) -> T:
        """Make the calls of a workflow, one after the other, and return its result.

        Raises:
            MindprintError: A call failed, or the workflow itself did.
        """
        step, result = take_step(steps, None)
        while step is not None:
            step, result = take_step(steps, self._take(step))
        return cast(T, result)

    def _take(self, step: Call[Any] | Pause) -> Any:
        """Return the reply to a call of a workflow, or its error; after a pause the time."""
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return time.monotonic()
        try:
            return self.send(step)
        except MindprintError as error:
            return error

    def _once(self, stream: Stream[T]) -> Generator[T]:
        """Repeat the call only until the reply begins, because yielded items cannot be withdrawn."""
        for attempt in self._retries.run(repeatable=stream.call.repeatable):
            with attempt:
                response = self._open(stream.call, streamed=True)
        yield from self._read(response, stream)

    def _follow(self, stream: Stream[T], final: Callable[[T], bool]) -> Generator[T]:
        """Open the stream again where it breaks. Each item renews the number of attempts.

        Once the stream has begun, the waits are long enough for a restart of the server.
        """
        items: Generator[T] | None = None
        last: T | None = None
        try:
            while True:
                for attempt in (self._reconnects if last else self._retries).run(repeatable=True):
                    with attempt:
                        items = items or self._read(self._open(stream.call, streamed=True), stream)
                        try:
                            item = next(items)
                        except (ConnectionFailed, StopIteration) as error:
                            items = None
                            raise broken_off(self.url, error) from error
                if item != last:  # a stream that is opened again begins with the last item
                    yield item
                if final(item):
                    return
                last = item
        finally:
            if items is not None:
                items.close()

    def _open(self, call: Call[Any], *, streamed: bool = False) -> httpx.Response:
        """Make one attempt. A streamed response is returned open, and the caller closes it."""
        with our_errors(self.url), request_parts(call, self._timeouts, streamed=streamed) as parts:
            response = self._http.send(self._http.build_request(**parts), stream=streamed)
            if response.is_success:
                return response
            response.read()
        raise refusal(response)

    def _read(self, response: httpx.Response, stream: Stream[T]) -> Generator[T]:
        decoder = stream.decoder()
        try:
            with our_errors(self.url):
                for chunk in response.iter_bytes():
                    yield from decoder.feed(chunk)
            yield from decoder.end()
        finally:
            response.close()
