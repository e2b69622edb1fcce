"""Mindprint's client: give every user of a language model their own way of thinking.

`MindprintClient` and `AsyncMindprintClient` call a Mindprint server; `mindprint.types` holds requests and replies.
Names are loaded when they are first used, so that `import mindprint` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindprint.async_client import AsyncMindprintClient
    from mindprint.exceptions import ApiError, BadReply, ConnectionFailed, InvalidRequest, MindprintError
    from mindprint.retry import Retries
    from mindprint.sync_client import MindprintClient
    from mindprint.transport import Timeouts

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "AsyncMindprintClient",
    "BadReply",
    "ConnectionFailed",
    "InvalidRequest",
    "MindprintClient",
    "MindprintError",
    "Retries",
    "Timeouts",
    "__version__",
]

_HOME = {
    "ApiError": "exceptions",
    "AsyncMindprintClient": "async_client",
    "BadReply": "exceptions",
    "ConnectionFailed": "exceptions",
    "InvalidRequest": "exceptions",
    "MindprintClient": "sync_client",
    "MindprintError": "exceptions",
    "Retries": "retry",
    "Timeouts": "transport",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mindprint' has no attribute {name!r}")
    value = getattr(import_module(f"mindprint.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
