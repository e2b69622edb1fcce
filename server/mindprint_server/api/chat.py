"""OpenAI's routes for chat completions and models; `mindprint_server.chat` answers them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.dependencies import ServicesDep
from mindprint_server.api.errors import ApiError

router = APIRouter(prefix="/v1", tags=["chat"], route_class=AccessRoute)
INFER = [requires("infer")]
INFER_OR_READ = [requires("infer", "read")]


@router.post(
    "/chat/completions", dependencies=INFER, response_class=Response, responses={200: {"description": "As OpenAI's"}}
)
async def completions(body: Annotated[dict[str, Any], Body()], request: Request, services: ServicesDep) -> Response:
    """Answer a chat as OpenAI's route does. `user/<id>` as `model` brings the user's memory and adapter."""
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        message = "the body holds a lone surrogate, which is half a character: send valid Unicode"
        raise ApiError(400, "invalid_unicode", message) from None
    except ValueError:
        message = "the body holds NaN or an infinite number, which JSON does not have: send finite numbers"
        raise ApiError(400, "invalid_json", message) from None

    async def wait_for_disconnect() -> None:
        # The body has been read, so that nothing but a disconnect ends the wait.
        while (await request.receive())["type"] != "http.disconnect":
            pass

    reply = await services.chat.complete(body, wait_for_disconnect=wait_for_disconnect)
    headers = {"Mindprint-Model": reply.model}
    if isinstance(reply.content, dict):
        return JSONResponse(reply.content, headers=headers)
    return StreamingResponse(reply.content, media_type="text/event-stream", headers=headers)


@router.get("/models", dependencies=INFER_OR_READ)
async def models(services: ServicesDep) -> dict[str, Any]:
    """List what `model` may name: the base model, adapters with a live version, and versions."""
    return await services.chat.models()
