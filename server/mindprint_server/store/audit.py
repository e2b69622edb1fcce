"""The audit log: who changed what. It holds ids, no texts and no secrets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import AuditEvent
from mindprint.types.audit import AuditValue
from mindprint_server.store.database import Database
from mindprint_server.store.ids import new_id
from mindprint_server.store.tables import audit_events
from mindprint_server.tenancy import current_tenant, in_all_tenants

LOCAL = "local"
"""The actor of a request to a server without keys."""
HOST = "host"
"""The actor of a command that has access to the database."""


def new_event(
    actor: str,
    action: str,
    objects: Mapping[str, AuditValue],
    *,
    status: int | None = None,
    request_id: str = "",
    now: datetime | None = None,
) -> AuditEvent:
    """Return an event of the tenant with a new id.

    Args:
        actor: Id of the key, or `LOCAL`, or `HOST`.
        action: What was asked for, as `noun.verb`.
        objects: Ids, numbers and switches. No texts, no secrets.
        status: HTTP status of the reply; None while it is not known.
        request_id: The request in the server's log.
        now: The time; None is the clock's.
    """
    return AuditEvent(
        id=new_id(),
        tenant=current_tenant(),
        created_at=now or datetime.now(UTC),
        actor=actor,
        action=action,
        objects=dict(objects),
        status=status,
        request_id=request_id,
    )


class AuditRepository:
    """Stores events. Nothing changes one after its status is known."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, event: AuditEvent) -> None:
        """Store a new event."""
        await self._database.write(_add, event)

    async def finish(self, event: AuditEvent) -> None:
        """Store the status and the objects of an event that was added before its change."""
        await self._database.write(_finish, event)

    async def find(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[AuditEvent]:
        """List the tenant's events, the newest first.

        Args:
            actor: Only what this key did.
            action: Only events of this action.
            since: Only events from this time on.
            after: Last id of the previous page; None starts with the newest.
            limit: Events to return at most.
        """
        return await self._database.read(_find, actor, action, since, after, limit)

    async def remove_before(self, when: datetime) -> int:
        """Remove the events of all tenants that are older than `when`, and return their number."""
        with in_all_tenants():
            return await self._database.write(_remove_before, when)


async def _add(db: AsyncConnection, event: AuditEvent) -> None:
    await db.execute(insert(audit_events), event.model_dump())


async def _finish(db: AsyncConnection, event: AuditEvent) -> None:
    mine = update(audit_events).where(audit_events.c.id == event.id)
    await db.execute(mine.values(status=event.status, objects=event.objects))


async def _find(
    db: AsyncConnection,
    actor: str | None,
    action: str | None,
    since: datetime | None,
    after: str | None,
    limit: int,
) -> list[AuditEvent]:
    columns = audit_events.c
    wanted: dict[Any, Any] = {columns.actor: actor, columns.action: action}
    query = select(audit_events).where(*(column == value for column, value in wanted.items() if value is not None))
    if since is not None:
        query = query.where(columns.created_at >= since)
    if after is not None:
        query = query.where(columns.id < after)
    rows = await db.execute(query.order_by(columns.id.desc()).limit(limit))
    return [AuditEvent.model_validate(dict(row)) for row in rows.mappings()]


async def _remove_before(db: AsyncConnection, when: datetime) -> int:
    return (await db.execute(delete(audit_events).where(audit_events.c.created_at < when))).rowcount
