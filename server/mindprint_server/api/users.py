"""Users, their engagements and what was written about them."""

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
from mindprint_server.api.dependencies import After, ContainerDep, Limit, UserId
from mindprint_server.exceptions import NotFound

router = APIRouter(prefix="/v1/users", tags=["users"])


@router.get("")
async def list_users(services: ContainerDep, limit: Limit = 100, after: After = None) -> UserPage:
    found = await services.store.users.list_page(after=after, limit=limit + 1)
    return UserPage(users=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/{user_id}")
async def one_user(user_id: UserId, services: ContainerDep) -> User:
    return await services.store.users.get(user_id)


@router.post("/{user_id}/engagements")
async def add_engagements(user_id: UserId, batch: EngagementBatch, services: ContainerDep) -> Ingested:
    """Stores all or none; creates the user if need be. The same id with the same content counts as unchanged."""
    return await services.store.engagements.add(user_id, batch.engagements)


@router.get("/{user_id}/engagements")
async def list_engagements(
    user_id: UserId, services: ContainerDep, limit: Limit = 100, after: After = None
) -> EngagementPage:
    await services.store.users.get(user_id)
    found = await services.store.engagements.list_page(user_id, after=after, limit=limit + 1)
    return EngagementPage(engagements=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/{user_id}/profile")
async def profile(user_id: UserId, services: ContainerDep) -> Profile:
    await services.store.users.get(user_id)
    found = await services.store.profiles.get_newest(user_id)
    if found is None:
        message = f"there is no profile of user {user_id!r} yet: POST /v1/users/{user_id}/profile writes one"
        raise NotFound("profile_not_found", message)
    return found


@router.post("/{user_id}/profile")
async def write_profile(user_id: UserId, services: ContainerDep) -> Profile:
    """Writes the profile now, from all the user's engagements."""
    await services.store.users.get(user_id)
    return await services.profiles.renew(user_id)


@router.get("/{user_id}/auto-mode")
async def route(user_id: UserId, services: ContainerDep) -> AutoModeDecisions:
    """Whether `mode: auto` thinks first about this user's queries, with choices and without, and what says so."""
    return await services.auto.explain(user_id)


@router.post("/{user_id}/traces")
async def add_traces(user_id: UserId, given: ImportedTraces, services: ContainerDep) -> Ingested:
    """Takes thinking that somebody brings: all wait for a trainer as accepted, or none.

    The prompt is the personal one of the engagement's time, the answer the user's real response. What says of its
    engagement what an accepted trace says counts as unchanged.
    """
    return await services.imports.import_traces(user_id, given.traces)
