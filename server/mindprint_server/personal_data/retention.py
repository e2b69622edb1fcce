"""Retention by age: removes rows that are older than the server may keep them.

Rows of users go with jobs of kind `retention`, ended publications at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from mindprint.types import DEFAULT_TENANT
from mindprint_server.context import ServerContext
from mindprint_server.personal_data.erasure import ErasureService
from mindprint_server.settings import PersonalDataSettings
from mindprint_server.settings.personal_data import Days, RetentionOverrides
from mindprint_server.store import ErasureTarget, RecordNotFound
from mindprint_server.tenancy import in_tenant

MAX_USERS = 1000
"""Users of a tenant whose rows are removed in one look."""


def days_of(settings: PersonalDataSettings, tenant: str) -> tuple[float | None, float | None]:
    """Return for how many days a tenant's engagements and traces are kept; None: for ever."""
    own = settings.tenant_retention.get(tenant, RetentionOverrides())
    return (
        _own_or(own.engagements_days, settings.retain_engagements_days),
        _own_or(own.traces_days, settings.retain_traces_days),
    )


def _own_or(own: Days, servers: float | None) -> float | None:
    if own is None:
        return servers
    return None if own == "none" else own


def cutoff(days: float | None, now: datetime) -> datetime | None:
    """Return the time before which rows are too old; None where they are kept for ever."""
    return None if days is None else now - timedelta(days=days)


class RetentionService:
    """Looks for old rows of all tenants, again and again.

    Args:
        ctx: Settings, store and supervisor of the server.
        erasures: Runs the jobs.
        clock: Returns the time; tests replace it.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        erasures: ErasureService,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings: PersonalDataSettings = ctx.settings
        self._store = ctx.store
        self._supervisor = ctx.supervisor
        self._erasures = erasures
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start looking, if the settings bound the age of anything."""
        settings = self._settings
        tenants = (DEFAULT_TENANT, *settings.tenant_retention)
        ages = [days for tenant in tenants for days in days_of(settings, tenant)]
        if any(days is not None for days in (*ages, settings.retain_publications_days)):
            self._task = self._supervisor.start_loop("retention", self.look, self._pause)

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> bool:
        """Remove publications that are too old, and request a job for each user with rows that are."""
        now = self._clock()
        if (publications_before := cutoff(self._settings.retain_publications_days, now)) is not None:
            await self._store.publication_jobs.remove_ended(publications_before)
        for tenant in await self._store.tenants.list_all():
            engagements_before, traces_before = (cutoff(days, now) for days in days_of(self._settings, tenant))
            if engagements_before is None and traces_before is None:
                continue
            with in_tenant(tenant):
                expired = await self._store.erasures.list_expired_users(
                    engagements_before=engagements_before, traces_before=traces_before, limit=MAX_USERS
                )
                for user_id in expired:
                    target = ErasureTarget(
                        kind="retention", user_id=user_id, before=engagements_before, traces_before=traces_before
                    )
                    with suppress(RecordNotFound):  # the user was erased meanwhile
                        await self._erasures.request(target)
        return True

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.retention_interval_s)
