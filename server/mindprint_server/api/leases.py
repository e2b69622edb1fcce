"""Routes of leases: a trainer claims traces and uploads the version that it trained on them."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from mindprint.types import Heartbeat, Lease, LeaseRequest, Manifest, Version
from mindprint_server.api import multipart
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.dependencies import WRITES, Id, ServicesDep
from mindprint_server.api.errors import ApiError
from mindprint_server.bounded_json import JsonRefused, parse_json
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import AdapterSettings

router = APIRouter(prefix="/v1/leases", tags=["leases"], route_class=AccessRoute)
TRAIN = [requires("train")]
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": list(multipart.PARTS),
                    "properties": {
                        "manifest": {"type": "string", "description": "JSON of a Manifest"},
                        "config": {"type": "string", "format": "binary", "description": "adapter_config.json"},
                        "weights": {"type": "string", "format": "binary", "description": "adapter_model.safetensors"},
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    dependencies=TRAIN,
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


@router.post("/{lease_id}/heartbeat", dependencies=TRAIN)
async def heartbeat(lease_id: Id, beat: Heartbeat, services: ServicesDep) -> Lease:
    """Extend a lease to `ttl_s` seconds from now."""
    return await services.store.leases.heartbeat(lease_id, beat.ttl_s)


@router.post("/{lease_id}/release", dependencies=TRAIN)
async def release(lease_id: Id, services: ServicesDep) -> Lease:
    """End a lease and put its traces back into the queue. This does not count as a failed attempt."""
    return await services.store.leases.release(lease_id)


@router.post("/{lease_id}/complete", dependencies=[*TRAIN, *WRITES], openapi_extra=FORM)
async def complete(lease_id: Id, request: Request, services: ServicesDep) -> Version:
    """Publish the trained version: validate the files, check parity, run the gate, and make the version live."""
    await services.store.leases.get(lease_id)  # an unknown lease is refused before its upload is read
    async with multipart.receive(request, services.settings) as upload:
        manifest = await asyncio.to_thread(_parse_manifest, upload.manifest, services.settings)
        return await services.adapters.publish(lease_id, manifest, upload.config, upload.weights)


def _parse_manifest(text: bytes, settings: AdapterSettings) -> Manifest:
    bounds = {"max_depth": settings.max_upload_json_depth, "max_keys": settings.max_manifest_keys}
    try:
        return Manifest.model_validate(parse_json(text, **bounds))
    except JsonRefused as error:
        if error.is_syntax:
            raise ApiError(
                400, "invalid_json", f"the manifest {error.problem}: send one JSON document in UTF-8"
            ) from None
        where = f"manifest.{error.path}" if error.path else "manifest"
        message = f"{where} {error.problem}: send the manifest that the trainer wrote"
        raise Invalid("invalid_manifest", message, param=where) from None
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", "manifest", *one["loc"])} for one in details]) from None
