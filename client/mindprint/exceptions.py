"""Errors of a call. Each message is one line and says what to do."""

from __future__ import annotations

UNKNOWN_CODE = "unknown"
"""Code of an error reply that is not in the form of this server: a page of a proxy, for instance."""


class MindprintError(Exception):
    """Base class of all errors of this package."""


class InvalidRequest(MindprintError, ValueError):
    """A call that cannot be sent as it stands, for instance with an empty id. Nothing was sent."""


class BadReply(MindprintError):
    """A reply that does not have the expected form."""


class ConnectionFailed(MindprintError):
    """No complete reply arrived.

    Attributes:
        sent: Whether the server may have acted on the request.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ApiError(MindprintError):
    """The server refused the call.

    Attributes:
        message: The reason and what to do.
        status: HTTP status.
        code: Stable name of the error, for programs.
        type: Group of the error, as OpenAI's API has it.
        param: The parameter that is wrong, if one is.
        request_id: Id of the request in the server's log.
        retry_after: Seconds to wait, on most 429 and 503; None elsewhere.
        should_retry: What the server says about making the same call again; None if it says nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        type: str = "",
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.should_retry = should_retry

    def __str__(self) -> str:
        details = [f"{self.status} {self.code}"] + ([f"request {self.request_id}"] if self.request_id else [])
        return f"{self.message} ({', '.join(details)})"
