"""OpenAI's routes for chat completions and models; `mindprint_server.chat` answers them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from mindprint_server.api.access import requires
from mindprint_server.api.dependencies import ContainerDep
from mindprint_server.api.errors import ApiError

router = APIRouter(prefix="/v1", tags=["chat"])
INFER = [requires("infer")]
INFER_OR_READ = [requires("infer", "read")]


@router.post(
    "/chat/completions", dependencies=INFER, response_class=Response, responses={200: {"description": "As OpenAI's"}}
)
async def completions(body: Annotated[dict[str, Any], Body()], request: Request, services: ContainerDep) -> Response:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        message = "the body holds a lone surrogate, which is half a character: send valid Unicode"
        raise ApiError(400, "invalid_unicode", message) from None
    return await services.chat.completions(body, request)


@router.get("/models", dependencies=INFER_OR_READ)
async def models(services: ContainerDep) -> dict[str, Any]:
    return await services.chat.models()
