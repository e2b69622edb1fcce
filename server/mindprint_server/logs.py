"""Structured logs, one line an event, each with the id of the request it belongs to."""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

from mindprint_server.errors import internal, reply
from mindprint_server.settings import Settings

log = structlog.get_logger(__name__)

FLOORS = {
    "uvicorn": logging.WARNING,
    "uvicorn.error": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "aiosqlite": logging.WARNING,
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "sse_starlette": logging.WARNING,
    "python_multipart": logging.WARNING,
    "asyncio": logging.WARNING,
}
"""The lowest level that libraries may speak at: below it they write what users sent."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PROBES = ("/livez", "/readyz", "/metrics")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
GONE = 499
"""The status that is counted when the caller left before the answer."""


def configure(settings: Settings) -> None:
    """Sends structlog and the standard library's loggers to stderr, as JSON or as text for people."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    last: list[Processor] = [ProcessorFormatter.remove_processors_meta]
    if settings.log_json:
        last += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        last.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, floor in FLOORS.items():
        logging.getLogger(name).setLevel(max(level, floor))


class RequestLog:
    """Pure ASGI, outermost: the request's id in and out, one line and one count a request, a reply to every fault."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        began, status = time.perf_counter(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, tell)
            except ClientDisconnect:
                status = GONE
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:  # the reply has begun: only a broken connection still tells the caller
                    raise
                await reply(Request(scope), internal(request_id))(scope, receive, tell)
            finally:
                _record(scope, status or GONE, time.perf_counter() - began)


def _request_id(given: str) -> str:
    """The caller's own id where it is harmless in a log, else a new one."""
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _record(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in METHODS else "OTHER"
    metrics = scope["app"].state.metrics
    metrics.requests.labels(route=route, method=method, status=str(status)).inc()
    metrics.request_seconds.labels(route=route, method=method).observe(seconds)
    level = logging.DEBUG if route in PROBES else logging.INFO
    log.log(level, "request", method=method, path=scope["path"], status=status, ms=round(seconds * 1000, 1))
