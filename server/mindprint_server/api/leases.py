"""Routes of leases: a trainer claims traces and uploads the version that it trained on them."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from mindprint.types import Heartbeat, Lease, LeaseRequest, Publication
from mindprint_server.api import multipart, uploads
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.audit import NOT_AUDITED, audited
from mindprint_server.api.dependencies import PUBLISHES, Id, ServicesDep

router = APIRouter(prefix="/v1/leases", tags=["leases"], route_class=AccessRoute)
TRAIN = [requires("train")]


@router.post(
    "",
    dependencies=TRAIN,
    openapi_extra=NOT_AUDITED,
    status_code=201,
    response_model=Lease,
    responses={204: {"description": "Nothing is waiting"}},
)
async def claim(wanted: LeaseRequest, services: ServicesDep) -> Lease | Response:
    """Claim the accepted traces of one adapter, with the samples to train on. 204 if no adapter has enough."""
    return await services.leases.claim(wanted) or Response(status_code=204)


@router.get("/{lease_id}", dependencies=TRAIN)
async def one_lease(lease_id: Id, services: ServicesDep) -> Lease:
    """Return a lease without its samples."""
    return await services.store.leases.get(lease_id)


@router.post("/{lease_id}/heartbeat", dependencies=TRAIN, openapi_extra=NOT_AUDITED)
async def heartbeat(lease_id: Id, beat: Heartbeat, services: ServicesDep) -> Lease:
    """Extend a lease to `ttl_s` seconds from now."""
    return await services.store.leases.heartbeat(lease_id, beat.ttl_s)


@router.post("/{lease_id}/release", dependencies=TRAIN, openapi_extra=NOT_AUDITED)
async def release(lease_id: Id, services: ServicesDep) -> Lease:
    """End a lease and put its traces back into the queue. This does not count as a failed attempt."""
    return await services.store.leases.release(lease_id)


@router.post(
    "/{lease_id}/complete",
    dependencies=[*TRAIN, *PUBLISHES],
    status_code=202,
    openapi_extra=uploads.FORM | audited("version.publish", replied=["adapter", "version", "id", "state"]),
)
async def complete(lease_id: Id, request: Request, response: Response, services: ServicesDep) -> Publication:
    """Store the trained version. The server then checks it: `GET /v1/publications/{id}` says how far it is.

    The lease holds meanwhile. The same upload again is answered with the same publication, also when it has ended.
    """
    lease = await services.store.leases.get(lease_id)  # an unknown lease is refused before its upload is read
    await services.stored_quotas.check_adapter(lease.adapter)
    services.quotas.check_upload(uploads.declared_size(request, services.settings.max_upload_bytes))
    async with multipart.receive(request, services.settings) as upload:
        manifest = await asyncio.to_thread(uploads.parse_manifest, upload.manifest, services.settings)
        publication = await services.publications.accept(lease_id, manifest, upload.config, upload.weights)
    response.headers["Location"] = f"/v1/publications/{publication.id}"
    return publication
