"""Shared parts of OpenAI's routes that let a model answer: bodies, disconnects, whole and streamed replies."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, cast

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mindprint_server.api.errors import ApiError
from mindprint_server.chat.runner import ChatReply

ANSWERS: dict[int | str, dict[str, Any]] = {200: {"description": "As OpenAI's"}}
"""What these routes reply."""
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers by which proxies pass each event on at once: nginx reads the second one."""


class _AnswerStream(StreamingResponse):
    """Closes its lines at the end, also where the caller left before the first one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(cast(AsyncGenerator[str], self.body_iterator)):
            await super().__call__(scope, receive, send)


def check_json(body: dict[str, Any]) -> None:
    """Refuse values that Python's reader takes and JSON does not have.

    Raises:
        ApiError: The body holds NaN, an infinite number or half a character.
    """
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        message = "the body holds a lone surrogate, which is half a character: send valid Unicode"
        raise ApiError(400, "invalid_unicode", message) from None
    except ValueError:
        message = "the body holds NaN or an infinite number, which JSON does not have: send finite numbers"
        raise ApiError(400, "invalid_json", message) from None


def disconnect_of(request: Request) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a function that waits until the caller has disconnected. Call it once the body has been read."""

    async def wait_for_disconnect() -> None:
        # The body has been read, so that nothing but a disconnect ends the wait.
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait_for_disconnect


def response_of(reply: ChatReply) -> Response:
    """Return the response for an answer, with the version that writes it as `Mindprint-Model`, where it is known."""
    headers = {"Mindprint-Model": reply.model} if reply.model else {}
    if isinstance(reply.content, dict):
        return JSONResponse(reply.content, headers=headers)
    return _AnswerStream(reply.content, media_type="text/event-stream", headers=headers | UNBUFFERED)
