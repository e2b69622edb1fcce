"""OpenAI's route for chat completions; `mindprint_server.chat` answers it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from mindprint_server.api.access import OpenAIRoute, requires
from mindprint_server.api.audit import NOT_AUDITED
from mindprint_server.api.dependencies import GENERATES, ServicesDep
from mindprint_server.api.openai import ANSWERS, check_json, disconnect_of, response_of
from mindprint_server.api.openai_bodies import CHAT

router = APIRouter(prefix="/v1", tags=["chat"], route_class=OpenAIRoute)
INFER = [requires("infer")]


@router.post(
    "/chat/completions",
    dependencies=[*INFER, *GENERATES],
    openapi_extra={**NOT_AUDITED, **CHAT},
    response_class=Response,
    responses=ANSWERS,
)
async def completions(body: Annotated[dict[str, Any], Body()], request: Request, services: ServicesDep) -> Response:
    """Answer a chat as OpenAI's route does. `user/<id>` as `model` brings the user's memory and adapter."""
    check_json(body)
    return response_of(await services.chat.complete(body, wait_for_disconnect=disconnect_of(request)))
