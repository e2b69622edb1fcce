"""TODO."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException

from mindprint_server.store.exceptions import (
    NotFound,
)

HINTS = {
    "user": "send engagements to POST /v1/users/{id}/engagements to create one",
    "engagement": "GET /v1/users/{id}/engagements lists the user's",
    "profile": "POST /v1/users/{id}/profile writes one",
    "trace": "GET /v1/traces lists them",
    "batch": "GET /v1/batches lists them",
    "lease": "POST /v1/leases claims one",
    "adapter": "GET /v1/adapters lists them",
    "version": "GET /v1/adapters/{key} lists the adapter's",
    "cohort": "GET /v1/cohorts lists them, PUT /v1/cohorts/{name} creates one",
}


class ApiError(HTTPException):
    """A refusal. `retry_after` is in seconds and goes with 429 and 503.

    It derives from HTTPException so that FastAPI lets it pass while it reads a body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        type: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status = status
        self.code = code
        self.message = message
        self.type = type or _type_of(status)
        self.param = param
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def _type_of(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"


def not_found(error: NotFound, param: str | None = None) -> ApiError:
    hint = HINTS.get(error.kind)
    message = f"{error}: {hint}" if hint else str(error)
    return ApiError(404, f"{error.kind.split()[0]}_not_found", message, param=param)


def engine_dead(retry_after: int) -> ApiError:
    message = "the engine died and the server is shutting down: retry once it has been started again"
    return ApiError(503, "engine_dead", message, retry_after=retry_after)
