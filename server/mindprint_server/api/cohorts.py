"""Cohorts: whose traces train one adapter together, which answers for those who have none of their own."""

from __future__ import annotations

from fastapi import APIRouter

from mindprint.types import Cohort, CohortEdit, CohortPage, Members
from mindprint_server.api.dependencies import ContainerDep, UserId

router = APIRouter(prefix="/v1/cohorts", tags=["cohorts"])


@router.get("")
async def list_cohorts(services: ContainerDep) -> CohortPage:
    """By name; `everyone` is always among them."""
    return CohortPage(cohorts=await services.store.cohorts.list_all())


@router.get("/{name}")
async def one_cohort(name: UserId, services: ContainerDep) -> Cohort:
    return await services.store.cohorts.get(name)


@router.put("/{name}")
async def put_cohort(name: UserId, wanted: CohortEdit, services: ContainerDep) -> Cohort:
    """Creates a cohort, or describes it anew."""
    return await services.store.cohorts.put(name, wanted.description)


@router.delete("/{name}", status_code=204)
async def delete_cohort(name: UserId, services: ContainerDep) -> None:
    """Its users are in `everyone` again and its adapter answers no more; the versions stay."""
    await services.store.cohorts.delete(name)


@router.post("/{name}/users")
async def add_members(name: UserId, members: Members, services: ContainerDep) -> Cohort:
    """Moves users into the cohort, all or none, from whichever they were in."""
    return await services.store.cohorts.add_members(name, members.users)


@router.delete("/{name}/users/{user_id}")
async def remove_member(name: UserId, user_id: UserId, services: ContainerDep) -> Cohort:
    """The user is in `everyone` again."""
    return await services.store.cohorts.remove_member(name, user_id)
