"""Routes of users: engagements, profiles, the mode that `auto` chooses, and imported traces."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from starlette.responses import StreamingResponse

from mindprint.types import (
    AutoModeDecisions,
    EngagementBatch,
    EngagementPage,
    Erasure,
    ImportedTraces,
    Ingested,
    Profile,
    User,
    UserPage,
)
from mindprint.types.base import Time
from mindprint_server.adapters import storage
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.audit import NOT_AUDITED, audited
from mindprint_server.api.dependencies import GENERATES, WRITES, After, Limit, ServicesDep, UserId
from mindprint_server.exceptions import Invalid, NotFound
from mindprint_server.store import ErasureTarget
from mindprint_server.wiring import Services

router = APIRouter(prefix="/v1/users", tags=["users"], route_class=AccessRoute)
READ = [requires("read")]
INGEST = [requires("ingest")]
ADMIN = [requires("admin")]
EngagementPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
ERASING: dict[str, Any] = {
    "status_code": 202,
    "responses": {200: {"model": Erasure, "description": "It is erased already: the job with its receipt"}},
}
ZIP = {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}, "description": "A zip"}


@router.get("", dependencies=READ)
async def list_users(services: ServicesDep, limit: Limit = 100, after: After = None) -> UserPage:
    """List users by id, page after page."""
    users = await services.store.users.list_page(after=after, limit=limit + 1)
    return UserPage(users=users[:limit], next=users[limit - 1].id if len(users) > limit else None)


@router.get("/{user_id}", dependencies=READ)
async def one_user(user_id: UserId, services: ServicesDep) -> User:
    """Return a user with its number of engagements, its cohort, and its newest profile and live version."""
    return await services.store.users.get(user_id)


@router.delete("/{user_id}", dependencies=ADMIN, openapi_extra=audited("user.erase", replied=["id"]), **ERASING)
async def erase_user(user_id: UserId, response: Response, services: ServicesDep) -> Erasure:
    """Erase a user: engagements, profiles, traces, the adapter, and every version that learned from them.

    A job does it; until it is done the user takes no rows. Sent again, it returns that job, at last with its receipt.
    """
    return await _erase(ErasureTarget(kind="user", user_id=user_id), response, services)


@router.get(
    "/{user_id}/export",
    dependencies=ADMIN,
    response_class=StreamingResponse,
    responses={200: ZIP},
    openapi_extra=audited("user.export"),
)
async def export_user(user_id: UserId, services: ServicesDep) -> StreamingResponse:
    """Return all that is stored of a user as a zip: NDJSON files, and a PEFT folder for each version with files."""
    file = await services.exports.export(user_id)
    headers = {
        "Content-Length": str(file.seek(0, 2)),
        "Content-Disposition": f'attachment; filename="user-{user_id}.zip"',
    }
    return StreamingResponse(storage.read_chunks(file), media_type="application/zip", headers=headers)


@router.post("/{user_id}/engagements", dependencies=[*INGEST, *WRITES], openapi_extra=NOT_AUDITED)
async def add_engagements(user_id: UserId, batch: EngagementBatch, services: ServicesDep) -> Ingested:
    """Store engagements, all or none, and create the user if needed. The reply counts those that were stored before."""
    await services.stored_quotas.check_engagements(len(batch.engagements))
    ingested = await services.store.engagements.add(user_id, batch.engagements)
    services.stored_quotas.add_engagements(ingested.created)
    return ingested


@router.get("/{user_id}/engagements", dependencies=READ)
async def list_engagements(
    user_id: UserId, services: ServicesDep, limit: Limit = 100, after: After = None
) -> EngagementPage:
    """List a user's engagements by id, page after page."""
    await services.store.users.get(user_id)
    page = await services.store.engagements.list_page(user_id, after=after, limit=limit + 1)
    return EngagementPage(engagements=page[:limit], next=page[limit - 1].id if len(page) > limit else None)


@router.delete(
    "/{user_id}/engagements",
    dependencies=ADMIN,
    openapi_extra=audited("engagements.erase", replied=["id"]),
    **ERASING,
)
async def erase_engagements(
    user_id: UserId,
    response: Response,
    services: ServicesDep,
    after: Annotated[Time | None, Query()] = None,
    before: Annotated[Time | None, Query()] = None,
) -> Erasure:
    """Erase a user's engagements from the time `after` on and before `before`, with all that was made of them."""
    if after is None and before is None:
        message = "neither after nor before is given: name a time, or DELETE /v1/users/{id} to erase the user"
        raise Invalid("validation_error", message, param="after")
    target = ErasureTarget(kind="range", user_id=user_id, after=after, before=before)
    return await _erase(target, response, services)


@router.delete(
    "/{user_id}/engagements/{engagement_id:path}",
    dependencies=ADMIN,
    openapi_extra=audited("engagement.erase", replied=["id"]),
    **ERASING,
)
async def erase_engagement(
    user_id: UserId, engagement_id: EngagementPath, response: Response, services: ServicesDep
) -> Erasure:
    """Erase one engagement, with its traces, later traces whose prompts may show it, and profiles that cover it."""
    target = ErasureTarget(kind="engagement", user_id=user_id, engagement_id=engagement_id)
    return await _erase(target, response, services)


@router.get("/{user_id}/profile", dependencies=READ)
async def profile(user_id: UserId, services: ServicesDep) -> Profile:
    """Return the newest profile of a user."""
    await services.store.users.get(user_id)
    newest = await services.store.profiles.get_newest(user_id)
    if newest is None:
        message = f"there is no profile of user {user_id!r} yet: POST /v1/users/{user_id}/profile writes one"
        raise NotFound("profile_not_found", message)
    return newest


@router.post(
    "/{user_id}/profile",
    dependencies=[*INGEST, *WRITES, *GENERATES],
    openapi_extra=audited("profile.write", replied=["version"]),
)
async def write_profile(user_id: UserId, services: ServicesDep) -> Profile:
    """Write the user's profile now, from all engagements."""
    await services.store.users.get(user_id)
    return await services.profiles.renew(user_id)


@router.get("/{user_id}/auto-mode", dependencies=READ)
async def auto_mode(user_id: UserId, services: ServicesDep) -> AutoModeDecisions:
    """Return whether `mode: auto` thinks before it answers this user's closed and open queries, and the evidence."""
    return await services.auto.explain(user_id)


@router.post("/{user_id}/traces", dependencies=[*INGEST, *WRITES, *GENERATES], openapi_extra=NOT_AUDITED)
async def add_traces(user_id: UserId, wanted: ImportedTraces, services: ServicesDep) -> Ingested:
    """Import thinking that was written elsewhere. All of it is stored and waits for a trainer, or none.

    The prompt is the personal prompt as of the engagement's time. The answer is the user's real response. Thinking with
    the same words as an accepted trace of its engagement is not stored again and counts as unchanged.
    """
    return await services.imports.import_traces(user_id, wanted.traces)


async def _erase(target: ErasureTarget, response: Response, services: Services) -> Erasure:
    erasure = await services.erasures.request(target)
    response.status_code = 200 if erasure.state == "done" else 202
    return erasure
