"""Adapters: their versions, and which one is live."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from mindprint.types import Adapter, AdapterPage, Promote
from mindprint_server.routes.common import Ready, UserId

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])
Kind = Literal["user", "cohort"]


@router.get("")
async def list_adapters(services: Ready) -> AdapterPage:
    return AdapterPage(adapters=await services.store.adapters())


@router.get("/{kind}/{name}")
async def one_adapter(kind: Kind, name: UserId, services: Ready) -> Adapter:
    return await services.store.adapter(f"{kind}/{name}")


@router.post("/{kind}/{name}/promote")
async def promote(kind: Kind, name: UserId, wanted: Promote, services: Ready) -> Adapter:
    """Makes a version live; `null` takes the adapter off, so that the base answers."""
    return await services.adapters.promote(f"{kind}/{name}", wanted.version)


@router.post("/{kind}/{name}/rollback")
async def rollback(kind: Kind, name: UserId, services: Ready) -> Adapter:
    """Makes the version before the live one live again."""
    return await services.adapters.rollback(f"{kind}/{name}")
