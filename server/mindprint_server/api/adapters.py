"""Adapters: their versions, where each comes from, and which one answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import StreamingResponse

from mindprint.types import Adapter, AdapterPage, Lineage, Pin, Promote, SetCanary, Version
from mindprint.types.keys import AdapterKey, Kind
from mindprint_server.adapters import storage
from mindprint_server.api.dependencies import ContainerDep, UserId

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])
Number = Annotated[int, Path(ge=1, lt=2**31)]
ZIP = {
    "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    "description": "adapter_config.json, adapter_model.safetensors and manifest.json, not compressed",
}


@router.get("")
async def list_adapters(services: ContainerDep) -> AdapterPage:
    return AdapterPage(adapters=await services.store.adapters.list_all())


@router.get("/{kind}/{name}")
async def one_adapter(kind: Kind, name: UserId, services: ContainerDep) -> Adapter:
    return await services.store.adapters.get(AdapterKey.make(kind, name))


@router.post("/{kind}/{name}/promote")
async def promote(kind: Kind, name: UserId, wanted: Promote, services: ContainerDep) -> Adapter:
    """Makes a version live; `null` takes the adapter off, so that the cohort or the base answers."""
    return await services.adapters.promote(AdapterKey.make(kind, name), wanted.version)


@router.put("/{kind}/{name}/canary")
async def set_canary(kind: Kind, name: UserId, wanted: SetCanary, services: ContainerDep) -> Adapter:
    """Lets a version answer a share of the requests until it has proved itself; `null` ends that."""
    return await services.adapters.set_canary(AdapterKey.make(kind, name), wanted.version, wanted.share)


@router.post("/{kind}/{name}/rollback")
async def rollback(kind: Kind, name: UserId, services: ContainerDep) -> Adapter:
    """Makes the version before the live one live again."""
    return await services.adapters.rollback(AdapterKey.make(kind, name))


@router.get("/{kind}/{name}/versions/{number}")
async def one_version(kind: Kind, name: UserId, number: Number, services: ContainerDep) -> Version:
    return await services.store.versions.get(AdapterKey.make(kind, name), number)


@router.get("/{kind}/{name}/versions/{number}/lineage")
async def lineage(kind: Kind, name: UserId, number: Number, services: ContainerDep) -> Lineage:
    """The traces that it learned from, what it was examined on, and the versions that it began with."""
    return await services.store.lineage.get(AdapterKey.make(kind, name), number)


@router.get("/{kind}/{name}/versions/{number}/download", response_class=StreamingResponse, responses={200: ZIP})
async def download(kind: Kind, name: UserId, number: Number, services: ContainerDep) -> StreamingResponse:
    """The version as a plain PEFT folder in a zip. 409 `version_files_gone` once retention has removed the files."""
    file = await services.adapters.download(AdapterKey.make(kind, name), number)
    headers = {
        "Content-Length": str(file.seek(0, 2)),
        "Content-Disposition": f'attachment; filename="{kind}-{name}-{number}.zip"',
    }
    return StreamingResponse(storage.read_chunks(file), media_type="application/zip", headers=headers)


@router.post("/{kind}/{name}/versions/{number}/pin")
async def pin(kind: Kind, name: UserId, number: Number, wanted: Pin, services: ContainerDep) -> Version:
    """A pinned version keeps its files and, once loaded, its place in the engine."""
    return await services.adapters.pin(AdapterKey.make(kind, name), number, wanted.pinned)
