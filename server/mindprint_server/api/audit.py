"""What a route states about the audit log, and how a request to it is recorded.

Every route that is not a GET says in its declaration `openapi_extra=audited(...)` or `openapi_extra=NOT_AUDITED`. A
test walks all routes and fails for one that says neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mindprint.types import AuditEvent
from mindprint.types.api_keys import KEY_TEXT
from mindprint.types.audit import AuditValue
from mindprint_server.api.errors import status_of
from mindprint_server.engine import EngineDied, PromptTooLong
from mindprint_server.exceptions import ServerError
from mindprint_server.operation.audit import AuditLog
from mindprint_server.store.audit import new_event

MARK = "x-audit"
NOT_AUDITED: dict[str, Any] = {MARK: False}
"""States that a route's requests are not recorded: they ingest, generate, or keep a lease."""
MAX_ITEMS = 100
"""Items of a list that are noted; its length is noted too."""
MAX_NUMBER = 2**63
ID_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,159}")
"""The form of ids and names. What has another form may be a text, and is not noted."""


@dataclass(frozen=True)
class Mark:
    """What is recorded of a route's requests. Parameters of the path are always noted."""

    action: str
    sent: tuple[str, ...]
    replied: tuple[str, ...]


def audited(action: str, *, sent: Iterable[str] = (), replied: Iterable[str] = ()) -> dict[str, Any]:
    """Return the `openapi_extra` of a route whose requests are recorded.

    Args:
        action: What it does, as `noun.verb`.
        sent: Fields of the body to note: ids, numbers, switches, and lists of ids. The body must be JSON.
        replied: Fields of the reply to note.
    """
    return {MARK: {"action": action, "sent": list(sent), "replied": list(replied)}}


def mark_of(openapi_extra: Mapping[str, Any] | None) -> Mark | None:
    """Return what a route states; None if its requests are not recorded."""
    stated = (openapi_extra or {}).get(MARK)
    return Mark(stated["action"], tuple(stated["sent"]), tuple(stated["replied"])) if stated else None


async def recorded(
    request: Request,
    mark: Mark,
    *,
    check: Callable[[Request], Awaitable[None]],
    handle: Callable[[Request], Awaitable[Response]],
) -> Response:
    """Answer a request, and record it: before its change, so that there is none without a row.

    A request without a valid key is not recorded: anybody could fill the log. `refusals` counts it.

    Args:
        request: The request.
        mark: What its route states.
        check: Checks the caller's key, and notes whose it is in `request.state`.
        handle: Answers.
    """
    request_id = structlog.contextvars.get_contextvars().get("request_id", "")
    try:
        await check(request)
    except HTTPException as error:
        if (actor := actor_of(request)) is not None:
            note = noted(request.path_params)
            await audit_of(request).record(
                new_event(actor, mark.action, note, status=error.status_code, request_id=request_id)
            )
        raise
    actor = actor_of(request)
    assert actor is not None
    sent = noted(pick(await request.body(), mark.sent)) if mark.sent else {}
    event = new_event(actor, mark.action, noted(request.path_params) | sent, request_id=request_id)
    audit = audit_of(request)
    await audit.begin(event)
    try:
        response = await handle(request)
    except Exception as error:
        await audit.finish(event.model_copy(update={"status": status_for(error)}))
        raise
    await audit.finish(finished(event, response, mark))
    return response


def finished(event: AuditEvent, response: Response, mark: Mark) -> AuditEvent:
    """Return an event with the status of its response, and what its route notes of the reply."""
    replied = noted(pick(bytes(response.body), mark.replied)) if mark.replied else {}
    return event.model_copy(update={"status": response.status_code, "objects": event.objects | replied})


def actor_of(request: Request) -> str | None:
    """Return whose request this is; None if its key was not valid, or not looked at yet."""
    actor: str | None = getattr(request.state, "actor", None)
    return actor


def audit_of(request: Request) -> AuditLog:
    """Return the audit log of a ready server."""
    log: AuditLog = request.app.state.server.ready().audit
    return log


def pick(body: bytes, names: Iterable[str]) -> dict[str, Any]:
    """Return some fields of a JSON object; those that are missing are left out, as is all of another body."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return {name: found[name] for name in names if name in found} if isinstance(found, dict) else {}


def noted(values: Mapping[str, Any]) -> dict[str, AuditValue]:
    """Return what may be noted: ids, numbers, switches, and lists of ids. Texts and secrets are left out."""
    found: dict[str, AuditValue] = {}
    for name, value in values.items():
        if isinstance(value, list):
            found[name] = [one for one in value[:MAX_ITEMS] if isinstance(one, str) and is_id(one)]
            if len(value) > MAX_ITEMS:
                found[f"{name}_count"] = len(value)
        elif value is None or is_number(value) or (isinstance(value, str) and is_id(value)):
            found[name] = value
    return found


def is_number(value: Any) -> bool:
    """Return whether a value is a switch or a number that every database can store."""
    return isinstance(value, int | float) and abs(value) < MAX_NUMBER


def is_id(text: str) -> bool:
    """Return whether a text is an id or a name. A whole key, sent where its id belongs, is none."""
    return ID_FORM.fullmatch(text) is not None and KEY_TEXT.search(text) is None


def status_for(error: Exception) -> int:
    """Return the status of the reply that the handlers of `errors.py` make of an error."""
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, ServerError):
        return status_of(error)
    if isinstance(error, RequestValidationError):
        return 422
    kinds = ((EngineDied, 503), (PromptTooLong, 422), (TimeoutError, 504))
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)
