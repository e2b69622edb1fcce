"""ASGI middleware: bounds the size and the arrival time of request bodies, and logs and counts requests."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mindprint_server.api.access import PROBES
from mindprint_server.api.errors import TENANT, ApiError, internal, reply
from mindprint_server.api.json_depth import json_depth
from mindprint_server.observability.logging import log
from mindprint_server.settings import LimitSettings

UPLOAD = re.compile(r"/v1/(?:leases/[^/]+/complete|adapters/[^/]+/[^/]+/versions)")


class BodySizeLimitMiddleware:
    """Refuses bodies that are too large (413) or arrive too slowly (408), so that every request is bounded.

    Headers that are too large are refused (431) also where they came in one piece (see `connections.py`).

    It is written in pure ASGI, so that streaming and cancellation work as without it.
    """

    def __init__(self, app: ASGIApp, settings: LimitSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            await reply(Request(scope), _headers_too_large())(scope, receive, send)
            return
        limit, headers = self._limit(scope["path"]), Headers(scope=scope)
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            await reply(Request(scope), _compressed())(scope, receive, send)
            return
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await reply(Request(scope), _too_large(limit))(scope, receive, send)
            return
        is_upload = UPLOAD.fullmatch(scope["path"]) is not None
        total_s = self.settings.upload_timeout_s if is_upload else self.settings.request_timeout_s
        deadline = asyncio.get_running_loop().time() + total_s
        taken, complete, chunks = 0, False, list[bytes]()

        async def bounded() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()
            message = await self._receive_until(deadline, receive)
            body = message.get("body", b"")
            taken += len(body)
            complete = not message.get("more_body", False)
            if taken > limit:
                raise _too_large(limit)
            if not is_upload:
                chunks.append(body)
                if complete:
                    self._check_depth(b"".join(chunks))
                    chunks.clear()
            return message

        await self.app(scope, bounded, send)

    async def _receive_until(self, deadline: float, receive: Receive) -> Message:
        """Receive the next part of a body. The whole body has a deadline, and each part of it `request_timeout_s`."""
        soonest = min(deadline, asyncio.get_running_loop().time() + self.settings.request_timeout_s)
        try:
            async with asyncio.timeout_at(soonest):
                return await receive()
        except TimeoutError:
            message = "the body did not arrive in time: send it again, in smaller parts over a slow connection"
            raise ApiError(408, "body_timeout", message, headers=CLOSE) from None

    def _check_depth(self, body: bytes) -> None:
        most = self.settings.max_json_depth
        if json_depth(body) > most:
            message = f"the body nests more than {most} lists and objects: send a flatter one"
            raise ApiError(400, "invalid_json", message)

    def _limit(self, path: str) -> int:
        return self.settings.max_upload_bytes if UPLOAD.fullmatch(path) else self.settings.max_body_bytes


MAX_HEADER_BYTES = 64 * 1024
"""Most bytes of a request's headers, h11's own bound."""
CLOSE = {"Connection": "close"}
"""Headers of a reply to a body that is not read to its end: the connection cannot be used again."""


def _headers_too_large() -> ApiError:
    message = f"the headers are larger than {MAX_HEADER_BYTES} bytes: send smaller ones"
    return ApiError(431, "headers_too_large", message, headers=CLOSE)


def _compressed() -> ApiError:
    message = "the body is compressed, which is not taken: send it as it is, without Content-Encoding"
    headers = {"Accept-Encoding": "identity", **CLOSE}
    return ApiError(415, "unsupported_media_type", message, headers=headers)


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes: send it in smaller parts"
    return ApiError(413, "body_too_large", message, headers=CLOSE)


class HeadMiddleware:
    """Answers HEAD on the routes about health and models as GET, without the body: monitors ask so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or not HEAD.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        # A copy: uvicorn reads the method of its own scope when it sends.
        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, send_head)
        finally:
            scope.update({name: asked[name] for name in ("route", TENANT) if name in asked})


HEAD = re.compile(r"/|/version|/v1/models(/.*)?|/v1/info|" + "|".join(map(re.escape, PROBES)))
"""Paths on which HEAD is answered."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
POLLED = {
    ("POST", "/v1/leases", 204),
    ("POST", "/v1/leases/{lease_id}/heartbeat", 200),
    ("GET", "/v1/publications/{publication_id}", 200),
}
"""Method, route and status of what a trainer repeats while nothing happens. It is logged as DEBUG."""
GONE = 499
"""Status that is counted for a caller who disconnected before the reply."""


class RequestLogMiddleware:
    """Logs and counts each request, passes on its `X-Request-Id` or makes one, and answers 500 to unhandled errors.

    It is written in pure ASGI and must be the outermost middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        began, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = GONE
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:  # the reply has begun: only a broken connection can show the caller that it failed
                    raise
                await reply(Request(scope), internal(request_id))(scope, receive, send_with_id)
            finally:
                _record(scope, status or GONE, time.perf_counter() - began)


def _request_id(sent: str) -> str:
    """Return the caller's request id if it is safe to log, else a new one."""
    return sent if REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _record(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    metrics = scope["app"].state.metrics
    metrics.requests.labels(tenant=scope.get(TENANT, ""), route=route, method=method, status=str(status)).inc()
    metrics.request_seconds.labels(route=route, method=method).observe(seconds)
    is_routine = route in PROBES or (method, route, status) in POLLED
    level = logging.DEBUG if is_routine else logging.INFO
    log.log(level, "request", method=method, path=scope["path"], status=status, ms=round(seconds * 1000, 1))
