"""Bounds connections: how many there are, how long and large a request's headers may be, how long a reader may stall.

Uvicorn (0.54) has no time-out for headers or for readers, httptools no bound on the size of headers, and uvicorn's
`limit_concurrency` answers without Retry-After and refuses health checks too. So this protocol adds them to uvicorn's
own.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from mindprint_server.api.access import PROBES
from mindprint_server.api.errors import ApiError, response
from mindprint_server.api.middleware import MAX_HEADER_BYTES
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import LimitSettings


class _Bounds(asyncio.Protocol):
    """Adds to a protocol of uvicorn deadlines for headers and for readers, and a bound on the connections.

    Connections above `max_connections` get 503 for their request. Above twice as many, they are closed at once.
    """

    limits: ClassVar[LimitSettings]
    metrics: ClassVar[Metrics]

    # What uvicorn's protocols have.
    app: Any
    connections: set[Any]
    cycle: Any
    """The newest request with its response; None before the first one."""
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _stall: asyncio.TimerHandle | None = None
    """Runs while the transport holds so much of a reply that uvicorn waits for the reader."""
    _stalled_since = 0.0
    _stalled_s = 0.0
    """Seconds for which the newest reply waited before."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        surplus = len(self.connections) - self.limits.max_connections
        if surplus > self.limits.max_connections:
            self._count("too_many_connections")
            self.transport.abort()
            return
        if surplus > 0:
            self.app = _Refusing(self.app, self.limits, self.metrics)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        last = self.cycle
        if self._timer is None and (last is None or last.response_complete):
            self._start_timer()
        super().data_received(data)
        if self.cycle is not last:
            self._stop_timer()
            self._stalled_s = 0.0
        elif self._timer is not None and not self._is_draining():
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._close("431 Request Header Fields Too Large", "headers_too_large")

    def pause_writing(self) -> None:
        super().pause_writing()
        left_s = self.limits.download_timeout_s - self._stalled_s
        self._stalled_since = self.loop.time()
        self._stall = self.loop.call_later(min(self.limits.stream_max_stall_s, max(left_s, 0)), self._abort)

    def resume_writing(self) -> None:
        self._stop_stall()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_stall()
        super().connection_lost(exc)

    def _is_draining(self) -> bool:
        """Return whether the body of a request is still arriving that was answered already."""
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def _start_timer(self) -> None:
        timeout_s = self.limits.request_timeout_s if self._is_draining() else self.limits.header_timeout_s
        self._header_bytes = 0
        self._timer = self.loop.call_later(timeout_s, self._close, "408 Request Timeout", "header_timeout")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stalled_s += self.loop.time() - self._stalled_since
            self._stall.cancel()
            self._stall = None

    def _abort(self) -> None:
        """End a connection whose reader takes too little. Uvicorn then tells the application that the caller left."""
        self._count("reader_stalled")
        self.transport.abort()  # to close it would wait until the reader has taken the rest

    def _close(self, status: str, code: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        self._count(code)
        if not self._is_draining():
            self.transport.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        self.transport.close()

    def _count(self, code: str) -> None:
        self.metrics.refusals.labels(tenant="", code=code).inc()


class _Refusing:
    """Answers 503 to everything but health checks."""

    def __init__(self, app: ASGIApp, limits: LimitSettings, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self._app(scope, receive, send)
        message = f"{self._limits.max_connections} connections are open already: retry in a moment"
        headers = {"Connection": "close"}
        error = ApiError(503, "too_many_connections", message, retry_after=self._limits.retry_after_s, headers=headers)
        self._metrics.refusals.labels(tenant="", code=error.code).inc()
        await response(error)(scope, receive, send)


def bounded_connections(
    limits: LimitSettings, metrics: Metrics, protocol: type[asyncio.Protocol] = AutoHTTPProtocol
) -> type[asyncio.Protocol]:
    """Return the class of connections for uvicorn's `http` option.

    Args:
        limits: Its `max_connections`, and its time-outs of headers, requests and readers.
        metrics: Counts what is refused.
        protocol: The protocol of uvicorn that is bounded.
    """
    return type("BoundedConnection", (_Bounds, protocol), {"limits": limits, "metrics": metrics})
