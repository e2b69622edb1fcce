"""Structured logs: one line an event, with the id of its request."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from mindprint.types.api_keys import KEY_TEXT
from mindprint_server.settings import ServerSettings

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
"""Minimum log level of libraries. Below it they would log what users sent."""


def configure(settings: ServerSettings) -> None:
    """Configure structlog and the standard library's loggers to write to stderr, as JSON or as text."""
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
        # Without locals: they hold users' texts and the database's password.
        without_locals = ExceptionDictTransformer(show_locals=False)
        last += [structlog.processors.ExceptionRenderer(without_locals), structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        last.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    last.append(_without_secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name, floor in FLOORS.items():
        logging.getLogger(name).setLevel(max(level, floor))


def _without_secrets(_logger: object, _method: str, line: Any) -> str:
    """Cut the secrets of API keys from a finished line: a caller may send a whole key as an id in a path."""
    return KEY_TEXT.sub(r"mp_\1_...", str(line))
