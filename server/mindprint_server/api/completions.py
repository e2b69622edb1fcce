"""OpenAI's route for raw prompts; `mindprint_server.chat.completions` answers it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from mindprint_server.api.access import OpenAIRoute, requires
from mindprint_server.api.audit import NOT_AUDITED
from mindprint_server.api.dependencies import GENERATES, ServicesDep
from mindprint_server.api.openai import ANSWERS, check_json, disconnect_of, response_of
from mindprint_server.api.openai_bodies import COMPLETION

router = APIRouter(prefix="/v1", tags=["chat"], route_class=OpenAIRoute)
INFER = [requires("infer")]


@router.post(
    "/completions",
    dependencies=[*INFER, *GENERATES],
    openapi_extra={**NOT_AUDITED, **COMPLETION},
    response_class=Response,
    responses=ANSWERS,
)
async def text_completions(
    body: Annotated[dict[str, Any], Body()], request: Request, services: ServicesDep
) -> Response:
    """Continue raw prompts as OpenAI's route does. A version's adapter applies; no memory goes before the prompt."""
    check_json(body)
    return response_of(await services.completions.complete(body, wait_for_disconnect=disconnect_of(request)))
