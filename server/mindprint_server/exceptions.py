"""The errors that the server raises on purpose: a stable code, a message that says what to do, and a kind.

Code below `api/` raises a kind and knows no HTTP; `api/errors.py` maps each kind to a status.
"""

from __future__ import annotations

MESSAGE_LIMIT = 600
"""Characters of a message. It may quote what was sent, which may be large."""


class ServerError(Exception):
    """A request that is refused. Nothing of it has been stored.

    Args:
        code: Stable name for programs, such as `lease_lost`.
        message: What is wrong, then what to do.
        param: The field or parameter that is wrong.
        retry_after: Seconds after which the request may be sent again. None takes the setting `retry_after_s` for
            errors that pass by themselves (429 and 503).
    """

    is_server_fault: bool = False
    """Whether the server is at fault: the request was valid, but could not be answered."""
    is_outcome_unknown: bool = False
    """Whether something of the request may have been stored all the same."""

    def __init__(self, code: str, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after


class NotFound(ServerError):
    """Something that the request names does not exist."""


class Forbidden(ServerError):
    """The caller's key may not do this."""


class Conflict(ServerError):
    """The request contradicts what is stored or what is going on."""


class Invalid(ServerError):
    """The request can be read, but a value in it is wrong."""


class LimitExceeded(ServerError):
    """The request passes a bound of the server. It may succeed later."""


class Busy(ServerError):
    """A resource did not become free in time. The same request may succeed in a moment."""

    is_server_fault = True


class ArtifactUnavailable(Busy):
    """This server cannot read or write the files of a version now. It says nothing about the version.

    Args:
        what: What cannot be done, such as `artifact 3f2a… cannot be read`.
        why: The cause.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(
            "artifact_unavailable",
            f"{what} ({why}): retry in a moment; if it stays so, compare artifact_url of all servers",
        )
        self.why = why


class StorageFull(ServerError):
    """A disk is full. Reads go on; the same write may succeed once there is space."""

    is_server_fault = True


class Unavailable(ServerError):
    """The engine is starting or has died."""

    is_server_fault = True


class Unsupported(ServerError):
    """The engine of this server cannot do it."""

    is_server_fault = True


class ClientGone(ServerError):
    """The caller closed the connection before the answer."""


class BackendRefused(ServerError):
    """vLLM's chat server refused the request.

    Args:
        status: The HTTP status that vLLM gave.
        message: vLLM's own words.
        param: The field that vLLM names.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__("bad_request", message, param=param)
        self.status = status
        self.is_server_fault = status >= 500


def engine_dead() -> Unavailable:
    """Return the error of every request after the engine died."""
    return Unavailable(
        "engine_dead", "the engine died and the server is shutting down: retry once it has been started again"
    )


def clean(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Return a text cut to `limit` characters, with lone surrogates replaced, so that it encodes as UTF-8."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"
