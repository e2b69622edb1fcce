"""Routes of adapters: their versions, the lineage of each, and which one answers."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import StreamingResponse

from mindprint.types import Adapter, AdapterPage, Lineage, Pin, Promote, Publication, SetCanary, Version
from mindprint.types.keys import AdapterKey, Kind
from mindprint_server.adapters import storage
from mindprint_server.api import multipart, uploads
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.audit import audited
from mindprint_server.api.dependencies import MAX_PAGE, PUBLISHES, After, Limit, ServicesDep, UserId

router = APIRouter(prefix="/v1/adapters", tags=["adapters"], route_class=AccessRoute)
READ_OR_TRAIN = [requires("read", "train")]
ADMIN = [requires("admin")]
Number = Annotated[int, Path(ge=1, lt=2**31)]
ZIP = {
    "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    "description": "adapter_config.json, adapter_model.safetensors, manifest.json and README.md, not compressed",
}


@router.get("", dependencies=READ_OR_TRAIN)
async def list_adapters(services: ServicesDep, limit: Limit = MAX_PAGE, after: After = None) -> AdapterPage:
    """List adapters with their versions by key, page after page."""
    found = await services.store.adapters.list_page(after=after, limit=limit + 1)
    return AdapterPage(adapters=found[:limit], next=found[limit - 1].key if len(found) > limit else None)


@router.get("/{kind}/{name}", dependencies=READ_OR_TRAIN)
async def one_adapter(kind: Kind, name: UserId, services: ServicesDep) -> Adapter:
    """Return an adapter with its versions, and which of them answer."""
    return await services.store.adapters.get(AdapterKey.make(kind, name))


@router.post("/{kind}/{name}/promote", dependencies=ADMIN, openapi_extra=audited("adapter.promote", sent=["version"]))
async def promote(kind: Kind, name: UserId, wanted: Promote, services: ServicesDep) -> Adapter:
    """Make a version live. `null` takes the adapter off: the cohort's adapter or the base model answers then."""
    return await services.adapters.promote(AdapterKey.make(kind, name), wanted.version)


@router.put(
    "/{kind}/{name}/canary", dependencies=ADMIN, openapi_extra=audited("adapter.canary", sent=["version", "share"])
)
async def set_canary(kind: Kind, name: UserId, wanted: SetCanary, services: ServicesDep) -> Adapter:
    """Let a version answer a share of the requests, until enough good answers make it live. `null` ends that."""
    return await services.adapters.set_canary(AdapterKey.make(kind, name), wanted.version, wanted.share)


@router.post("/{kind}/{name}/rollback", dependencies=ADMIN, openapi_extra=audited("adapter.rollback", replied=["live"]))
async def rollback(kind: Kind, name: UserId, services: ServicesDep) -> Adapter:
    """Make the newest earlier version live that passed its checks and still has files."""
    return await services.adapters.rollback(AdapterKey.make(kind, name))


@router.post(
    "/{kind}/{name}/versions",
    dependencies=[requires("train"), *PUBLISHES],
    openapi_extra=uploads.FORM | audited("version.import", replied=["adapter", "version", "id", "state"]),
    status_code=202,
)
async def import_version(
    kind: Kind, name: UserId, request: Request, response: Response, services: ServicesDep
) -> Publication:
    """Store an adapter that was trained elsewhere as the next version. It passes all checks of a trained version.

    `GET /v1/publications/{id}` says how far the checks are.
    """
    key = AdapterKey.make(kind, name)
    await services.version_imports.check_owner(key)  # an unknown user is refused before the upload is read
    await services.stored_quotas.check_adapter(key)
    services.quotas.check_upload(uploads.declared_size(request, services.settings.max_upload_bytes))
    async with multipart.receive(request, services.settings) as upload:
        manifest = await asyncio.to_thread(uploads.parse_manifest, upload.manifest, services.settings)
        publication = await services.version_imports.import_version(key, manifest, upload.config, upload.weights)
    response.headers["Location"] = f"/v1/publications/{publication.id}"
    return publication


@router.get("/{kind}/{name}/versions/{number}", dependencies=READ_OR_TRAIN)
async def one_version(kind: Kind, name: UserId, number: Number, services: ServicesDep) -> Version:
    """Return a version with its manifest and the result of its checks."""
    return await services.store.versions.get(AdapterKey.make(kind, name), number)


@router.get("/{kind}/{name}/versions/{number}/lineage", dependencies=READ_OR_TRAIN)
async def lineage(kind: Kind, name: UserId, number: Number, services: ServicesDep) -> Lineage:
    """Return the traces that a version learned from, the engagements of its gate, and the versions before it."""
    return await services.store.lineage.get(AdapterKey.make(kind, name), number)


@router.get(
    "/{kind}/{name}/versions/{number}/download",
    dependencies=READ_OR_TRAIN,
    response_class=StreamingResponse,
    responses={200: ZIP},
)
async def download(kind: Kind, name: UserId, number: Number, services: ServicesDep) -> StreamingResponse:
    """Return a version as a plain PEFT folder in a zip. 409 `version_files_gone` after retention removed the files."""
    file = await services.adapters.download(AdapterKey.make(kind, name), number)
    headers = {
        "Content-Length": str(file.seek(0, 2)),
        "Content-Disposition": f'attachment; filename="{kind}-{name}-{number}.zip"',
    }
    return StreamingResponse(storage.read_chunks(file), media_type="application/zip", headers=headers)


@router.post(
    "/{kind}/{name}/versions/{number}/pin", dependencies=ADMIN, openapi_extra=audited("version.pin", sent=["pinned"])
)
async def pin(kind: Kind, name: UserId, number: Number, wanted: Pin, services: ServicesDep) -> Version:
    """Pin or unpin a version. A pinned version keeps its files and, once loaded, its slot in the engine."""
    return await services.adapters.pin(AdapterKey.make(kind, name), number, wanted.pinned)
