"""Routes of erasures: jobs that delete a user's data, and their receipts."""

from __future__ import annotations

from fastapi import APIRouter

from mindprint.types import Erasure, ErasurePage
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.dependencies import After, Id, Limit, ServicesDep

router = APIRouter(prefix="/v1/erasures", tags=["erasures"], route_class=AccessRoute)
ADMIN = [requires("admin")]


@router.get("", dependencies=ADMIN)
async def list_erasures(services: ServicesDep, limit: Limit = 100, after: After = None) -> ErasurePage:
    """List erasures in the order of their requests, page after page. They stay after the user is gone."""
    found = await services.store.erasures.list_page(after=after, limit=limit + 1)
    return ErasurePage(erasures=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/{erasure_id}", dependencies=ADMIN)
async def one_erasure(erasure_id: Id, services: ServicesDep) -> Erasure:
    """Return an erasure; once it is done, with its signed receipt."""
    return await services.store.erasures.get(erasure_id)
