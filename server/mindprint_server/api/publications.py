"""Routes of publications: uploaded versions on their way into service."""

from __future__ import annotations

from fastapi import APIRouter

from mindprint.types import Publication
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.dependencies import Id, ServicesDep

router = APIRouter(prefix="/v1/publications", tags=["leases"], route_class=AccessRoute)
TRAIN = [requires("train")]


@router.get("/{publication_id}", dependencies=TRAIN)
async def one_publication(publication_id: Id, services: ServicesDep) -> Publication:
    """Return a publication: what the server does with the upload now, and the version or the reason at the end."""
    return await services.publications.get(publication_id)
