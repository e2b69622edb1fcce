"""OpenAI's Responses API; `mindprint_server.chat.responses` answers it as a chat."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from mindprint_server.api.access import OpenAIRoute, requires
from mindprint_server.api.audit import NOT_AUDITED
from mindprint_server.api.dependencies import GENERATES, ServicesDep
from mindprint_server.api.openai import ANSWERS, check_json, disconnect_of, response_of
from mindprint_server.api.openai_bodies import RESPONSE

router = APIRouter(prefix="/v1", tags=["chat"], route_class=OpenAIRoute)
INFER = [requires("infer")]


@router.post(
    "/responses",
    dependencies=[*INFER, *GENERATES],
    openapi_extra={**NOT_AUDITED, **RESPONSE},
    response_class=Response,
    responses=ANSWERS,
)
async def responses(body: Annotated[dict[str, Any], Body()], request: Request, services: ServicesDep) -> Response:
    """Answer a request of OpenAI's Responses API as the chat that it stands for. Nothing is stored.

    `previous_response_id`, `conversation`, `background` and stored prompts are refused: send the whole input.
    """
    check_json(body)
    return response_of(await services.responses.create(body, wait_for_disconnect=disconnect_of(request)))
