"""Routes of adapters: their versions, the lineage of each, and which one answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import StreamingResponse

from mindprint.types import Adapter, AdapterPage, Lineage, Pin, Promote, SetCanary, Version
from mindprint.types.keys import AdapterKey, Kind
from mindprint_server.adapters import storage
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.dependencies import ServicesDep, UserId

router = APIRouter(prefix="/v1/adapters", tags=["adapters"], route_class=AccessRoute)
READ_OR_TRAIN = [requires("read", "train")]
ADMIN = [requires("admin")]
Number = Annotated[int, Path(ge=1, lt=2**31)]
ZIP = {
    "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    "description": "adapter_config.json, adapter_model.safetensors and manifest.json, not compressed",
}


@router.get("", dependencies=READ_OR_TRAIN)
async def list_adapters(services: ServicesDep) -> AdapterPage:
    """List all adapters with their versions."""
    return AdapterPage(adapters=await services.store.adapters.list_all())


@router.get("/{kind}/{name}", dependencies=READ_OR_TRAIN)
async def one_adapter(kind: Kind, name: UserId, services: ServicesDep) -> Adapter:
    """Return an adapter with its versions, and which of them answer."""
    return await services.store.adapters.get(AdapterKey.make(kind, name))


@router.post("/{kind}/{name}/promote", dependencies=ADMIN)
async def promote(kind: Kind, name: UserId, wanted: Promote, services: ServicesDep) -> Adapter:
    """Make a version live. `null` takes the adapter off: the cohort's adapter or the base model answers then."""
    return await services.adapters.promote(AdapterKey.make(kind, name), wanted.version)


@router.put("/{kind}/{name}/canary", dependencies=ADMIN)
async def set_canary(kind: Kind, name: UserId, wanted: SetCanary, services: ServicesDep) -> Adapter:
    """Let a version answer a share of the requests, until enough good answers make it live. `null` ends that."""
    return await services.adapters.set_canary(AdapterKey.make(kind, name), wanted.version, wanted.share)


@router.post("/{kind}/{name}/rollback", dependencies=ADMIN)
async def rollback(kind: Kind, name: UserId, services: ServicesDep) -> Adapter:
    """Make the newest earlier version live that passed its checks and still has files."""
    return await services.adapters.rollback(AdapterKey.make(kind, name))


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


@router.post("/{kind}/{name}/versions/{number}/pin", dependencies=ADMIN)
async def pin(kind: Kind, name: UserId, number: Number, wanted: Pin, services: ServicesDep) -> Version:
    """Pin or unpin a version. A pinned version keeps its files and, once loaded, its slot in the engine."""
    return await services.adapters.pin(AdapterKey.make(kind, name), number, wanted.pinned)
