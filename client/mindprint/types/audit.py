"""The audit log: who changed what, and when."""

from __future__ import annotations

from mindprint.types.base import Reply, Time

AuditValue = str | int | float | bool | None | list[str]
"""What is noted of an object: an id, a number, a switch. Never a text that a person or a model wrote."""


class AuditEvent(Reply):
    """One change, or the attempt at one."""

    id: str
    tenant: str
    """Whose keys see the event."""
    created_at: Time
    actor: str
    """Id of the API key; `admin_key` is the one in the settings. `local`: the server had no keys. `host`: a command
    with access to the database."""
    action: str
    """What was asked for, such as `adapter.promote`."""
    objects: dict[str, AuditValue]
    """Ids of what it was about."""
    status: int | None = None
    """HTTP status of the reply. null: the request still runs, or the server was stopped meanwhile."""
    request_id: str
    """The id of the request in the server's log."""


class AuditPage(Reply):
    """Events, the newest first."""

    events: list[AuditEvent]
    next: str | None = None
    """The `after` of the following page; None on the last one."""
