"""Publication: the end of a lease with a version that is published or refused."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Start, Version
from mindprint.types.keys import VersionRef
from mindprint_server.store import leases, lineage, live_versions, publication_jobs
from mindprint_server.store import versions as version_rows
from mindprint_server.store.database import Database
from mindprint_server.store.exceptions import LeaseLost
from mindprint_server.store.tables import versions
from mindprint_server.store.versions import VersionRecord


class PublicationRepository:
    """Ends a lease with the version that was trained under it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def publish(
        self, lease_id: str, version: Version, *, canary_share: float | None = None, now: datetime | None = None
    ) -> VersionRecord:
        """Store an accepted version, make it live, and mark the lease's traces as trained: all together, or nothing.

        A repeated call with the same digest returns what is stored. An earlier canary is on standby afterwards.

        Args:
            lease_id: The lease that the version was trained under.
            version: The version. Its `start` is ignored: the lease says what training started from.
            canary_share: If above 0 and a version is live, the new one becomes the canary with this share.
            now: Time at which the lease must still hold; None: the present.

        Raises:
            LeaseLost: The lease has ended otherwise, or is of another adapter.
        """
        return await self._database.write(_publish, lease_id, version, canary_share, now)

    async def refuse(
        self,
        lease_id: str,
        version: Version,
        *,
        max_attempts: int,
        reason: tuple[str, str] = ("refused", "it failed a check"),
        now: datetime | None = None,
    ) -> VersionRecord:
        """Store a refused version; the lease's traces wait again, or are dead letters after `max_attempts`.

        A repeated call with the same digest returns what is stored.

        Args:
            lease_id: The lease that the version was trained under.
            version: The version. Its `start` is ignored: the lease says what training started from.
            max_attempts: Maximum number of failed leases of a trace.
            reason: Code and message for the publication job.
            now: Time at which the lease must still hold; None: the present.

        Raises:
            LeaseLost: The lease has ended otherwise, or is of another adapter.
        """
        return await self._database.write(_refuse, lease_id, version, max_attempts, reason, now)


async def _publish(
    db: AsyncConnection, lease_id: str, version: Version, canary_share: float | None, now: datetime | None
) -> VersionRecord:
    stored = await _find_repeat(db, lease_id, version, refused=False)
    if stored is not None:
        return stored
    await _insert(db, lease_id, version, now, refused=False)
    await leases.end(db, lease_id, "completed", version.version)
    await publication_jobs.finish(db, lease_id, "published")
    await leases.mark_trained(db, lease_id, version.version)
    await live_versions.publish(db, version.adapter, version.version, canary_share)
    return await version_rows.get(db, version.adapter, version.version)


async def _refuse(
    db: AsyncConnection,
    lease_id: str,
    version: Version,
    max_attempts: int,
    reason: tuple[str, str],
    now: datetime | None,
) -> VersionRecord:
    stored = await _find_repeat(db, lease_id, version, refused=True)
    if stored is not None:
        return stored
    await _insert(db, lease_id, version, now, refused=True)
    await leases.end(db, lease_id, "released")
    await publication_jobs.finish(db, lease_id, "refused", code=reason[0], message=reason[1])
    await leases.requeue_traces(db, lease_id, max_attempts)
    return await version_rows.get(db, version.adapter, version.version)


async def _find_repeat(db: AsyncConnection, lease_id: str, version: Version, *, refused: bool) -> VersionRecord | None:
    """Return the version that this lease ended with, if this call repeats the one that stored it."""
    lease = await leases.lock(db, lease_id)
    row = (await db.execute(select(versions).where(versions.c.lease_id == lease_id))).mappings().one_or_none()
    if row is None:
        return None
    # A version that was withdrawn later counts as completed.
    completed = lease["state"] == "completed"
    if (row["digest"], completed) != (version.digest, not refused):
        outcome = "is stored" if completed else "was refused"
        raise LeaseLost(lease_id, f"its version {row['version']} {outcome}, with digest {row['digest']}")
    return await version_rows.get(db, row["adapter"], row["version"])


async def _insert(db: AsyncConnection, lease_id: str, version: Version, now: datetime | None, *, refused: bool) -> None:
    # The lease of a publication job holds without a heartbeat.
    may_be_late = await publication_jobs.is_open(db, lease_id)
    lease = await leases.lock_active(db, lease_id, now, may_be_late=may_be_late)
    if lease["adapter"] != version.adapter:
        raise LeaseLost(lease_id, f"it holds traces of {lease['adapter']}, not of {version.adapter}")
    start = Start.model_validate(lease["start"]) if lease["start"] else None
    row = version.model_dump(exclude={"state", "parity", "manifest"}) | {
        "lease_id": lease_id,
        "refused": refused,
        "start": VersionRef.of(start.adapter, start.version) if start else None,
        "parity": version.parity.model_dump(mode="json") if version.parity else None,
        "manifest": version.manifest.model_dump(mode="json"),
        "artifact": version.artifact if isinstance(version, VersionRecord) else None,
    }
    await db.execute(versions.insert(), row)
    await lineage.record(db, lease["trace_ids"], version.adapter, version.version)
