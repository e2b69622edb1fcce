"""Bounds on what comes in: how large a body may be and how long it may take to arrive (invariant 9)."""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mindprint_server.errors import ApiError, reply
from mindprint_server.settings import Settings

UPLOAD = re.compile(r"/v1/leases/[^/]+/complete")


class BodyLimit:
    """Pure ASGI, so that streaming and cancellation pass untouched. Answers 413 (too large) and 408 (too slow)."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await reply(Request(scope), _too_large(limit))(scope, receive, send)
            return
        taken, complete = 0, False

        async def bounded() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(self.settings.request_timeout_s):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, "body_timeout", "the body stopped arriving: send it again", headers=CLOSE) from None
            taken += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if taken > limit:
                raise _too_large(limit)
            return message

        await self.app(scope, bounded, send)

    def _limit(self, path: str) -> int:
        return self.settings.max_upload_bytes if UPLOAD.fullmatch(path) else self.settings.max_body_bytes


CLOSE = {"Connection": "close"}
"""The rest of the body is not read, so the connection cannot be used again."""


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes: send it in smaller parts"
    return ApiError(413, "body_too_large", message, headers=CLOSE)
