"""OpenAI's routes that list and find models."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from mindprint.types.keys import ModelName, ModelNameStr
from mindprint_server.api.access import OpenAIRoute, requires
from mindprint_server.api.dependencies import MAX_PAGE, Limit, ServicesDep

router = APIRouter(prefix="/v1/models", tags=["chat"], route_class=OpenAIRoute)
INFER_OR_READ = [requires("infer", "read")]


@router.get("", dependencies=INFER_OR_READ)
async def models(services: ServicesDep, limit: Limit = MAX_PAGE, after: ModelNameStr | None = None) -> dict[str, Any]:
    """List what `model` may name: the base model, adapters with a live version, and versions.

    OpenAI's clients read one page. Where `has_more` is true, `after` with the value of `last_id` gives the next one.
    """
    return await services.models.list_page(after=None if after is None else ModelName(after), limit=limit)


@router.get("/{model:path}", dependencies=INFER_OR_READ)
async def one_model(model: str, services: ServicesDep) -> dict[str, Any]:
    """Return one model. `root` is the version that answers for it, or `base`.

    The slash of a name is sent as it is, or as `%2F`. Users and cohorts without an adapter are found too: requests may
    name them.
    """
    return await services.models.get(model)
