"""What can go wrong with a call. Each message is one line and says what to do."""

from __future__ import annotations


class MindprintError(Exception):
    """Anything that this package reports."""


class InvalidRequest(MindprintError, ValueError):
    """The call cannot be sent as it stands, for instance an empty id. Nothing has left this machine."""


class BadReply(MindprintError):
    """The server answered, but not with what this call expects."""


class ConnectionFailed(MindprintError):
    """No (complete) answer came. `sent` tells whether the server may have acted on the request."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ApiError(MindprintError):
    """The server refused. `code` is what programs switch on; `retry_after` (seconds) is there on most 429 and 503."""

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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        told = [f"{self.status} {self.code}"] + ([f"request {self.request_id}"] if self.request_id else [])
        return f"{self.message} ({', '.join(told)})"
