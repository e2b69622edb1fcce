"""Every refusal in OpenAI's envelope, with a code that programs can switch on and a message that says what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mindprint.types import NAME
from mindprint_server.engine import EngineDied, PromptTooLong
from mindprint_server.exceptions import ApiError, engine_dead, not_found
from mindprint_server.settings import Settings
from mindprint_server.store.exceptions import (
    AlreadyLive,
    BacklogFull,
    Busy,
    EngagementConflict,
    EveryoneStays,
    FilesGone,
    IdempotencyConflict,
    LeaseLost,
    NotFound,
    NothingToRollBack,
    QueueFull,
    StoreError,
    VersionRefused,
)

MESSAGE_LIMIT = 600
"""Characters; a message may quote what was sent, and that may be large."""

CONFLICTS: dict[type[StoreError], str] = {
    FilesGone: "version_files_gone",
    VersionRefused: "version_refused",
    AlreadyLive: "version_live",
    EveryoneStays: "everyone_stays",
}
"""Refusals of the store's whose own words say what to do."""


def clean(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Text that fits in a reply and encodes as UTF-8, whatever was sent (lone surrogates, megabytes)."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def envelope(error: ApiError) -> dict[str, Any]:
    """The body of an error reply (`mindprint.types.ErrorReply`)."""
    param = None if error.param is None else clean(error.param, 200)
    return {"error": {"message": clean(error.message), "type": error.type, "code": error.code, "param": param}}


def reply(request: Request, error: ApiError, *, extra: Mapping[str, Any] | None = None) -> Response:
    """The response for an error, counted by its code. `extra` goes beside `error` in the body."""
    request.app.state.metrics.refusals.labels(code=error.code).inc()
    headers = dict(error.headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    body = json.dumps({**(extra or {}), **envelope(error)}, ensure_ascii=False)
    return Response(body, error.status, headers, "application/json")


# --- what else may be raised, as an ApiError ------------------------------------


def from_store(error: StoreError, retry_after: int) -> ApiError:
    """A refusal of the store's, in HTTP's words. `retry_after` (seconds) is for a full queue."""
    if isinstance(error, NotFound):
        return not_found(error)
    message = str(error)
    if isinstance(error, EngagementConflict):
        return ApiError(
            409, "engagement_conflict", f"{message}; nothing of this request was stored", param="engagements"
        )
    if isinstance(error, IdempotencyConflict):
        return ApiError(409, "idempotency_conflict", message, param="idempotency_key")
    if isinstance(error, QueueFull):
        return ApiError(429, "batch_queue_full", message, retry_after=retry_after)
    if isinstance(error, BacklogFull):
        return ApiError(429, "backlog_full", message, retry_after=retry_after)
    if isinstance(error, LeaseLost):
        return ApiError(409, "lease_lost", f"{message}: drop the work and claim again with POST /v1/leases")
    if isinstance(error, Busy):
        return ApiError(503, "store_busy", f"{message}: retry in a moment", retry_after=retry_after)
    if isinstance(error, NothingToRollBack):
        return ApiError(409, "nothing_to_roll_back", f"{message}: promote names a version, or null for the base")
    code = next((code for kind, code in CONFLICTS.items() if isinstance(error, kind)), "conflict")
    return ApiError(409, code, message)


def from_http(error: HTTPException, request: Request) -> ApiError:
    """The router's and the body reader's refusals."""
    status, path = error.status_code, request.url.path
    if status == 404 and b"%2f" in (request.scope.get("raw_path") or b"").lower():
        return ApiError(422, "invalid_name", "a name in the path holds a slash: names are no paths", param="path")
    if status == 404:
        return ApiError(
            404, "not_found", f"there is no {clean(path, 200)!r} here: GET /openapi.json lists what there is"
        )
    if status == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{request.method} is not allowed on {clean(path, 200)!r}: use {allowed or 'another method'}"
        return ApiError(405, "method_not_allowed", message, headers=error.headers)
    if status == 400:
        return ApiError(400, "invalid_json", "the body cannot be read: send one JSON document in UTF-8")
    return ApiError(status, "http_error", str(error.detail), headers=error.headers)


def from_validation(errors: Sequence[Mapping[str, Any]], content_type: str = "application/json") -> ApiError:
    """The first of pydantic's complaints in one sentence; the input itself is not echoed."""
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


def from_engine(error: Exception, settings: Settings) -> ApiError:
    """A dead engine, a prompt that does not fit, or work that took longer than it may."""
    if isinstance(error, EngineDied):
        return engine_dead(settings.retry_after_s)
    if isinstance(error, PromptTooLong):
        return ApiError(422, "prompt_too_long", str(error))
    message = (
        f"not done within {settings.request_timeout_s:g} s: ask for fewer tokens, or again when the server is less busy"
    )
    return ApiError(504, "timeout", message)


def field_name(where: Sequence[str | int]) -> str:
    """`("body", "engagements", 0, "id")` as `engagements[0].id`."""
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


# --- handlers -------------------------------------------------------------------


def install(app: FastAPI) -> None:
    """Registers the handlers. What is none of these is caught, logged and answered by `logs.RequestLog`."""

    async def on_store(request: Request, error: Exception) -> Response:
        assert isinstance(error, StoreError)
        return reply(request, from_store(error, request.app.state.settings.retry_after_s))

    async def on_engine(request: Request, error: Exception) -> Response:
        return reply(request, from_engine(error, request.app.state.settings))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return reply(request, error if isinstance(error, ApiError) else from_http(error, request))

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return reply(request, from_validation(error.errors(), request.headers.get("content-type", "")))

    app.add_exception_handler(StoreError, on_store)
    for kind in (EngineDied, PromptTooLong, TimeoutError):
        app.add_exception_handler(kind, on_engine)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)


def internal(request_id: str) -> ApiError:
    """What a caller hears of a fault of ours; the rest is in the log."""
    message = f"the server failed on this request: retry, and report it with request id {request_id} if it stays"
    return ApiError(500, "internal_error", message)
