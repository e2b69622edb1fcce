"""Routes of users: engagements, profiles, the mode that `auto` chooses, and imported traces."""

from __future__ import annotations

from fastapi import APIRouter

from mindprint.types import (
    AutoModeDecisions,
    EngagementBatch,
    EngagementPage,
    ImportedTraces,
    Ingested,
    Profile,
    User,
    UserPage,
)
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.dependencies import WRITES, After, Limit, ServicesDep, UserId
from mindprint_server.exceptions import NotFound

router = APIRouter(prefix="/v1/users", tags=["users"], route_class=AccessRoute)
READ = [requires("read")]
INGEST = [requires("ingest")]


@router.get("", dependencies=READ)
async def list_users(services: ServicesDep, limit: Limit = 100, after: After = None) -> UserPage:
    """List users by id, page after page."""
    users = await services.store.users.list_page(after=after, limit=limit + 1)
    return UserPage(users=users[:limit], next=users[limit - 1].id if len(users) > limit else None)


@router.get("/{user_id}", dependencies=READ)
async def one_user(user_id: UserId, services: ServicesDep) -> User:
    """Return a user with its number of engagements, its cohort, and its newest profile and live version."""
    return await services.store.users.get(user_id)


@router.post("/{user_id}/engagements", dependencies=[*INGEST, *WRITES])
async def add_engagements(user_id: UserId, batch: EngagementBatch, services: ServicesDep) -> Ingested:
    """Store engagements, all or none, and create the user if needed. The reply counts those that were stored before."""
    return await services.store.engagements.add(user_id, batch.engagements)


@router.get("/{user_id}/engagements", dependencies=READ)
async def list_engagements(
    user_id: UserId, services: ServicesDep, limit: Limit = 100, after: After = None
) -> EngagementPage:
    """List a user's engagements by id, page after page."""
    await services.store.users.get(user_id)
    page = await services.store.engagements.list_page(user_id, after=after, limit=limit + 1)
    return EngagementPage(engagements=page[:limit], next=page[limit - 1].id if len(page) > limit else None)


@router.get("/{user_id}/profile", dependencies=READ)
async def profile(user_id: UserId, services: ServicesDep) -> Profile:
    """Return the newest profile of a user."""
    await services.store.users.get(user_id)
    newest = await services.store.profiles.get_newest(user_id)
    if newest is None:
        message = f"there is no profile of user {user_id!r} yet: POST /v1/users/{user_id}/profile writes one"
        raise NotFound("profile_not_found", message)
    return newest


@router.post("/{user_id}/profile", dependencies=[*INGEST, *WRITES])
async def write_profile(user_id: UserId, services: ServicesDep) -> Profile:
    """Write the user's profile now, from all engagements."""
    await services.store.users.get(user_id)
    return await services.profiles.renew(user_id)


@router.get("/{user_id}/auto-mode", dependencies=READ)
async def auto_mode(user_id: UserId, services: ServicesDep) -> AutoModeDecisions:
    """Return whether `mode: auto` thinks before it answers this user's closed and open queries, and the evidence."""
    return await services.auto.explain(user_id)


@router.post("/{user_id}/traces", dependencies=[*INGEST, *WRITES])
async def add_traces(user_id: UserId, wanted: ImportedTraces, services: ServicesDep) -> Ingested:
    """Import thinking that was written elsewhere. All of it is stored and waits for a trainer, or none.

    The prompt is the personal prompt as of the engagement's time. The answer is the user's real response. Thinking with
    the same words as an accepted trace of its engagement is not stored again and counts as unchanged.
    """
    return await services.imports.import_traces(user_id, wanted.traces)
