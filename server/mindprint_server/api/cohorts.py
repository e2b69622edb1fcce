"""Routes of cohorts. The traces of a cohort's users train one adapter, which answers users without their own."""

from __future__ import annotations

from fastapi import APIRouter

from mindprint.types import Cohort, CohortEdit, CohortPage, Members
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.audit import audited
from mindprint_server.api.dependencies import MAX_PAGE, After, Limit, ServicesDep, UserId

router = APIRouter(prefix="/v1/cohorts", tags=["cohorts"], route_class=AccessRoute)
READ = [requires("read")]
ADMIN = [requires("admin")]


@router.get("", dependencies=READ)
async def list_cohorts(services: ServicesDep, limit: Limit = MAX_PAGE, after: After = None) -> CohortPage:
    """List cohorts by name, page after page; `everyone` is always among them."""
    found = await services.store.cohorts.list_page(after=after, limit=limit + 1)
    return CohortPage(cohorts=found[:limit], next=found[limit - 1].name if len(found) > limit else None)


@router.get("/{name}", dependencies=READ)
async def one_cohort(name: UserId, services: ServicesDep) -> Cohort:
    """Return a cohort with its number of users and its live version."""
    return await services.store.cohorts.get(name)


@router.put("/{name}", dependencies=ADMIN, openapi_extra=audited("cohort.put"))
async def put_cohort(name: UserId, wanted: CohortEdit, services: ServicesDep) -> Cohort:
    """Create a cohort, or replace its description."""
    return await services.store.cohorts.put(name, wanted.description)


@router.delete("/{name}", dependencies=ADMIN, status_code=204, openapi_extra=audited("cohort.delete"))
async def delete_cohort(name: UserId, services: ServicesDep) -> None:
    """Delete a cohort. Its users move to `everyone`, its adapter answers no more, and its versions stay stored."""
    await services.store.cohorts.delete(name)


@router.post("/{name}/users", dependencies=ADMIN, openapi_extra=audited("cohort.add_users", sent=["users"]))
async def add_members(name: UserId, members: Members, services: ServicesDep) -> Cohort:
    """Move users into a cohort, all or none. Each leaves the cohort that it was in."""
    return await services.store.cohorts.add_members(name, members.users)


@router.delete("/{name}/users/{user_id}", dependencies=ADMIN, openapi_extra=audited("cohort.remove_user"))
async def remove_member(name: UserId, user_id: UserId, services: ServicesDep) -> Cohort:
    """Move a user back to `everyone`."""
    return await services.store.cohorts.remove_member(name, user_id)
