"""API keys: create, list, rotate, revoke."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from mindprint.types import SCOPES, ApiKey, ApiKeyPage, CreateApiKey, CreatedApiKey, RotateApiKey
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.audit import audited
from mindprint_server.api.dependencies import MAX_PAGE, After, Id, Limit, ServicesDep
from mindprint_server.exceptions import Invalid, NotFound

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=AccessRoute)
ADMIN = [requires("admin")]


@router.post(
    "",
    status_code=201,
    dependencies=ADMIN,
    openapi_extra=audited("key.create", sent=["scopes", "tenant"], replied=["id"]),
)
async def create_key(wanted: CreateApiKey, services: ServicesDep) -> CreatedApiKey:
    """Create a key. The reply is the only one that shows its text."""
    if "admin" not in wanted.scopes and await services.access.is_open():
        message = "the first key must have the scope admin: without one nobody could make another over HTTP"
        raise Invalid("first_key_is_admin", message, param="scopes")
    return await services.access.create(wanted)


@router.get("", dependencies=ADMIN)
async def list_keys(services: ServicesDep, limit: Limit = MAX_PAGE, after: After = None) -> ApiKeyPage:
    """List keys, revoked and expired ones too, the oldest first, page after page."""
    found = await services.access.list_page(after=after, limit=limit + 1)
    return ApiKeyPage(keys=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/self", dependencies=[requires(*SCOPES)])
async def own_key(key: Annotated[ApiKey | None, requires(*SCOPES)]) -> ApiKey:
    """Return the caller's own key, with its scopes and when it expires. Any valid key may ask."""
    if key is None:
        raise NotFound("no_keys", "this server has no keys, so callers need none: POST /v1/keys creates the first")
    return key


@router.post(
    "/{key_id}/rotate", status_code=201, dependencies=ADMIN, openapi_extra=audited("key.rotate", replied=["id"])
)
async def rotate_key(key_id: Id, wanted: RotateApiKey, services: ServicesDep) -> CreatedApiKey:
    """Create a key with the same name and scopes. The old one expires `keep_old_s` from now."""
    return await services.access.rotate(key_id, wanted)


@router.delete("/{key_id}", dependencies=ADMIN, openapi_extra=audited("key.revoke"))
async def revoke_key(key_id: Id, services: ServicesDep) -> ApiKey:
    """Revoke a key for good: on this server at once, on others within `key_cache_s`."""
    return await services.access.revoke(key_id)
