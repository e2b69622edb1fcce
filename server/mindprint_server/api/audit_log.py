"""The audit log: who changed what. See `audit.py` for what is recorded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from mindprint.types import AuditPage, Time
from mindprint_server.api.access import AccessRoute, requires
from mindprint_server.api.dependencies import After, Limit, ServicesDep

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=AccessRoute)
Name = Annotated[str | None, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


@router.get("", dependencies=[requires("admin")])
async def list_audit_events(
    services: ServicesDep,
    actor: Name = None,
    action: Name = None,
    since: Time | None = None,
    limit: Limit = 100,
    after: After = None,
) -> AuditPage:
    """List changes and attempts at changes, the newest first, page after page, with the filters that are given.

    `actor` is the id of a key, `action` what was asked for, such as `adapter.promote`.
    """
    events = await services.store.audit.find(actor=actor, action=action, since=since, after=after, limit=limit + 1)
    return AuditPage(events=events[:limit], next=events[limit - 1].id if len(events) > limit else None)
