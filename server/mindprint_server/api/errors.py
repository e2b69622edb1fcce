"""Turns errors into HTTP replies of OpenAI's form: a stable code for programs, a message that says what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from mindprint.types import NAME
from mindprint_server import exceptions
from mindprint_server.engine import EngineDied, PromptTooLong
from mindprint_server.exceptions import MESSAGE_LIMIT, ServerError, clean, engine_dead
from mindprint_server.settings import LimitSettings

TENANT = "mindprint.tenant"
"""Where the scope of a request keeps the tenant of its key."""
OPENAI_ROUTE = "mindprint.openai_route"
"""Where the scope of a request says that its route is one of OpenAI's."""

STATUS: dict[type[ServerError], int] = {
    exceptions.NotFound: 404,
    exceptions.Forbidden: 403,
    exceptions.Conflict: 409,
    exceptions.Invalid: 422,
    exceptions.LimitExceeded: 429,
    exceptions.ClientGone: 499,
    exceptions.Unsupported: 501,
    exceptions.Busy: 503,
    exceptions.Unavailable: 503,
    exceptions.StorageFull: 507,
}
"""The HTTP status of each kind of error. `BackendRefused` brings its own."""

NOT_SERVED = re.compile(
    "/v1/(assistants|audio|containers|conversations|embeddings|evals|files|fine_tuning|images|moderations|realtime|"
    "rerank|score|threads|uploads|vector_stores|videos)(/|$)"
)
"""Paths of OpenAI's and vLLM's APIs of which this server has nothing."""
RETRY_STATUSES = (429, 503, 507)
"""Statuses that are sent with Retry-After, unless something may have been done."""
SHOULD_RETRY = "x-should-retry"
"""Header that tells clients, OpenAI's too, whether to send the same request again."""


class ApiError(HTTPException):
    """An error that `api/` raises itself. `retry_after` is in seconds.

    It derives from HTTPException, because FastAPI replaces other exceptions that are raised while it reads a body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """The error's type in OpenAI's API."""
        if self.status >= 500:
            return "server_error"
        return "rate_limit_error" if self.status == 429 else "invalid_request_error"

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def envelope(error: ApiError) -> dict[str, Any]:
    """Return the body of an error reply (`mindprint.types.ErrorReply`)."""
    param = None if error.param is None else clean(error.param, 200)
    return {"error": {"message": clean(error.message), "type": error.type, "code": error.code, "param": param}}


def reply(request: Request, error: ApiError, *, extra: Mapping[str, Any] | None = None) -> Response:
    """Return the response for an error and count it by its code.

    Args:
        request: The request that is refused. On OpenAI's routes 422 becomes 400, as OpenAI has it.
        error: Why.
        extra: Fields beside `error` in the body.
    """
    request.app.state.metrics.refusals.labels(tenant=request.scope.get(TENANT, ""), code=error.code).inc()
    status = 400 if error.status == 422 and OPENAI_ROUTE in request.scope else error.status
    return response(error, status=status, extra=extra)


def response(error: ApiError, *, status: int | None = None, extra: Mapping[str, Any] | None = None) -> Response:
    """Return the response for an error, with the headers that say whether and when to send the request again.

    Args:
        error: Why a request is refused.
        status: The HTTP status; None takes the error's.
        extra: Fields beside `error` in the body.
    """
    headers = dict(error.headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if (should_retry := may_repeat(error)) is not None:
        headers[SHOULD_RETRY] = str(should_retry).lower()
    body = json.dumps({**(extra or {}), **envelope(error)}, ensure_ascii=False)
    return Response(body, status or error.status, headers, "application/json")


def may_repeat(error: ApiError) -> bool | None:
    """Return whether the same request may be sent again; None if only the caller knows.

    With Retry-After the request was refused before anything was done, so any request may be repeated. After a failure
    (500), a time limit (408, 504) or a lost commit (503 without Retry-After) something may have been done: then it
    depends on the request. OpenAI's clients repeat a 409 unless they are told not to.
    """
    if error.retry_after is not None:
        return True
    is_refusal = 400 <= error.status < 500 or error.status == 501
    return False if is_refusal and error.status not in (408, 429) else None


# --- other exceptions as an ApiError ---


def status_of(error: ServerError) -> int:
    """Return the HTTP status of an error: that of its kind, or vLLM's own."""
    if isinstance(error, exceptions.BackendRefused):
        return error.status
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


def from_server(error: ServerError, retry_after: int) -> ApiError:
    """Return the reply for an error of the server.

    Args:
        error: What was raised below the HTTP layer.
        retry_after: Seconds for Retry-After where the error gives none.
    """
    status = status_of(error)
    is_undone = status in RETRY_STATUSES and not error.is_outcome_unknown
    seconds = (error.retry_after or retry_after) if is_undone else None
    return ApiError(status, error.code, error.message, param=error.param, retry_after=seconds)


def from_http(error: HTTPException, request: Request) -> ApiError:
    """Return the error for an HTTPException of Starlette or FastAPI, such as an unknown route."""
    status, path = error.status_code, request.url.path
    if status == 404 and b"%2f" in (request.scope.get("raw_path") or b"").lower():
        return ApiError(422, "invalid_name", "a name in the path holds a slash: use a name without one", param="path")
    if status == 404 and (found := NOT_SERVED.match(path)):
        message = f"this server does not serve /v1/{found[1]}: it answers chats, completions and responses"
        return ApiError(404, "not_served", message)
    if status == 404:
        meant = similar_path(request)
        advice = f"use {meant}" if meant else "GET /openapi.json lists what there is"
        return ApiError(404, "not_found", f"there is no {clean(path, 200)!r} here: {advice}")
    if status == 405:
        allowed = ", ".join(allowed_methods(request))
        message = f"{request.method} is not allowed on {clean(path, 200)!r}: use {allowed}"
        return ApiError(405, "method_not_allowed", message, headers={"Allow": allowed})
    if status == 400:
        return ApiError(400, "invalid_json", "the body cannot be read: send one JSON document in UTF-8")
    return ApiError(status, "http_error", str(error.detail), headers=error.headers)


def similar_path(request: Request) -> str | None:
    """Return the path that a caller may have meant: clients put `/v1` before a path, none, or two of them."""
    path = request.url.path.rstrip("/")
    bare = re.sub("^(/v1)+(?=/)", "", path)
    for meant in (path, f"/v1{bare}"):
        scope = {**request.scope, "path": meant}
        if meant != request.url.path and any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            return meant
    return None


def allowed_methods(request: Request) -> list[str]:
    """Return the methods of the request's path, sorted. Starlette itself names those of its first route only."""
    first = next(route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    same = [route for route in request.app.routes if route.path == first.path]
    return sorted({method for route in same for method in route.methods or ()})


def from_validation(errors: Sequence[Mapping[str, Any]], content_type: str = "application/json") -> ApiError:
    """Return the error for a request that pydantic refuses: its first complaint, without the input."""
    first = errors[0]
    where, kind = tuple(first["loc"]), first["type"]
    if kind == "json_invalid":
        detail = (first.get("ctx") or {}).get("error") or first["msg"]
        at = f" at byte {where[1]}" if len(where) > 1 and isinstance(where[1], int) else ""
        return ApiError(400, "invalid_json", f"the body is not JSON ({detail}{at}): send one JSON document in UTF-8")
    if where == ("body",) and "json" not in content_type:
        message = "the body is not declared as JSON: send it with Content-Type: application/json"
        return ApiError(415, "unsupported_media_type", message)
    field = field_name(where)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = f"{clean(field, 120)}: {clean(_complaint(first), MESSAGE_LIMIT - 160)}{more}"
    is_name = where[:1] == ("path",) or (first.get("ctx") or {}).get("pattern") == NAME
    return ApiError(422, "invalid_name" if is_name else "validation_error", message, param=field)


def from_engine(error: Exception, settings: LimitSettings) -> ApiError:
    """Return the error for EngineDied, PromptTooLong or TimeoutError."""
    if isinstance(error, EngineDied):
        return from_server(engine_dead(), settings.retry_after_s)
    if isinstance(error, PromptTooLong):
        return ApiError(422, "prompt_too_long", str(error))
    message = (
        f"not done within {settings.request_timeout_s:g} s: ask for fewer tokens, or retry when the server is less busy"
    )
    return ApiError(504, "timeout", message)


def field_name(where: Sequence[str | int]) -> str:
    """Return pydantic's location as text: `("body", "engagements", 0, "id")` becomes `engagements[0].id`."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where[1:]).lstrip(".")
    return name or (str(where[0]) if where else "body")


def _complaint(error: Mapping[str, Any]) -> str:
    kind, message = error["type"], str(error["msg"])
    if kind == "missing":
        return "is missing: add it"
    if kind == "extra_forbidden":
        return "is not known here: remove it or correct its spelling"
    if kind == "string_pattern_mismatch" and (error.get("ctx") or {}).get("pattern") == NAME:
        return "is not a name: use letters, digits, '_', '-' and single dots inside; no slash and no '..'"
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


# --- handlers ---


def install(app: FastAPI) -> None:
    """Register the handlers of exceptions. `RequestLogMiddleware` logs and answers all other exceptions."""

    async def on_server(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServerError)
        return reply(request, from_server(error, request.app.state.settings.retry_after_s))

    async def on_engine(request: Request, error: Exception) -> Response:
        return reply(request, from_engine(error, request.app.state.settings))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return reply(request, error if isinstance(error, ApiError) else from_http(error, request))

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return reply(request, from_validation(error.errors(), request.headers.get("content-type", "")))

    app.add_exception_handler(ServerError, on_server)
    for kind in (EngineDied, PromptTooLong, TimeoutError):
        app.add_exception_handler(kind, on_engine)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)


def internal(request_id: str) -> ApiError:
    """Return the error for an unexpected exception. Its details are only in the log."""
    message = f"the server failed on this request: retry, and report request id {request_id} if it fails again"
    return ApiError(500, "internal_error", message)
