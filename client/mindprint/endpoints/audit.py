"""The audit log: `client.audit`. It needs a key with the scope `admin`."""

from __future__ import annotations

from datetime import datetime

from mindprint._methods import Method, Resource, SenderT
from mindprint.transport import Call, get_call, reply_of
from mindprint.types import AuditPage, as_utc

_events = reply_of(AuditPage)


class AuditResource(Resource[SenderT]):
    """Who changed what, and when."""

    @Method
    def list(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        since: datetime | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Call[AuditPage]:
        """List changes and attempts at changes, the newest first.

        Args:
            actor: Only what this key did.
            action: Only this action, such as `adapter.promote`.
            since: Only from this time on. A time without a zone counts as UTC.
            limit: Size of the page, 1 to 1000.
            after: `next` of the previous page; None starts with the newest.
        """
        at = None if since is None else as_utc(since).isoformat()
        return get_call("/v1/audit", _events, actor=actor, action=action, since=at, limit=limit, after=after)
