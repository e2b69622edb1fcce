"""Live versions: the pointers to the version of an adapter that is live and to the canary that answers a share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import EVERYONE, Adapter, Check, Version
from mindprint.types.keys import AdapterKey
from mindprint_server.store import adapters
from mindprint_server.store import versions as version_rows
from mindprint_server.store.database import Database, advisory_lock, insert_new
from mindprint_server.store.exceptions import AlreadyLive, FilesGone, NothingToRollBack, VersionRefused
from mindprint_server.store.tables import leases, live_versions, trace_versions, traces, users, versions
from mindprint_server.store.versions import VersionRecord


@dataclass(frozen=True)
class Pointers:
    """Which versions of an adapter answer requests."""

    live: VersionRecord | None = None
    canary: VersionRecord | None = None
    canary_share: float | None = None
    """Share of the requests that the canary answers, more than 0 and less than 1."""


class LiveVersionRepository:
    """Moves the pointers that say which versions of an adapter answer requests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> Pointers:
        """Return what answers for an adapter. All fields are None if it is off or has no version."""
        return await self._database.read(get, key)

    async def resolve_for_user(self, user_id: str) -> tuple[str, Pointers]:
        """Find the adapter that answers for a user.

        The first of these that has a live version or a canary: the user's own adapter, that of the user's cohort,
        that of `everyone`. A user who is not stored counts as a member of `everyone`.

        Returns:
            The adapter key and its pointers. All pointers are None if the base model answers.
        """
        return await self._database.read(_resolve_for_user, user_id)

    async def set_live(self, key: str, version: int | None) -> Adapter:
        """Make a version live, also a refused one; None takes the adapter off, with its canary.

        A canary that becomes live is no longer the canary. A refused version counts as published from then on: those
        of its traces that wait, or are dead letters, are trained in it. Leased ones stay with their lease.

        Raises:
            FilesGone: The version has no files.
        """
        return await self._database.write(_set_live, key, version)

    async def rollback(self, key: str) -> Adapter:
        """Make the newest accepted version before the live one live that still has files.

        Raises:
            NothingToRollBack: No version before the live one was accepted.
            FilesGone: None of those has files.
        """
        return await self._database.write(_rollback, key)

    async def withdraw(self, key: str, version: int, check: Check) -> Adapter:
        """Refuse a version after it was accepted, and add the failed check to its checks.

        If it was live, the adapter falls back as with `rollback`, or is off. If it was the canary, there is none
        afterwards. A second call changes nothing.
        """
        return await self._database.write(_withdraw, key, version, check)

    async def set_canary(self, key: str, version: int | None, share: float) -> Adapter:
        """Let a version answer a share of the adapter's requests; None ends that.

        Args:
            key: Adapter key.
            version: The version that becomes the canary, or None.
            share: Share of the requests, more than 0 and less than 1.

        Raises:
            VersionRefused: The version is refused.
            FilesGone: The version has no files.
            AlreadyLive: The version is live.
        """
        return await self._database.write(_set_canary, key, version, share)


async def get(db: AsyncConnection, key: str) -> Pointers:
    """Return what answers for an adapter."""
    pointed = or_(versions.c.version == live_versions.c.version, versions.c.version == live_versions.c.canary)
    found = await version_rows.load(db, version_rows.select_versions().where(versions.c.adapter == key, pointed))
    by_state = {version.state: version for version in found}
    share = await db.scalar(select(live_versions.c.canary_share).where(live_versions.c.adapter == key))
    return Pointers(by_state.get("live"), by_state.get("canary"), share)


async def _resolve_for_user(db: AsyncConnection, user_id: str) -> tuple[str, Pointers]:
    keys = [AdapterKey.user(user_id), *await list_fallback_adapters(db, user_id)]
    # Most users have no version: one statement says so for all keys.
    has_version = or_(live_versions.c.version.is_not(None), live_versions.c.canary.is_not(None))
    pointed = set(
        await db.scalars(select(live_versions.c.adapter).where(live_versions.c.adapter.in_(keys), has_version))
    )
    for key in keys:
        if key in pointed and ((found := await get(db, key)).live or found.canary):
            return key, found
    return keys[-1], Pointers()


async def list_fallback_adapters(db: AsyncConnection, user_id: str) -> list[str]:
    """List the adapters that answer for a user without an own one: the cohort's, then that of `everyone`."""
    cohort = await db.scalar(select(users.c.cohort).where(users.c.id == user_id))
    return [AdapterKey.cohort(name) for name in dict.fromkeys((cohort or EVERYONE, EVERYONE))]


async def publish(db: AsyncConnection, key: str, number: int, canary_share: float | None) -> None:
    """Make a new version live, or the canary if a share is given and a version is live; replace the canary."""
    await advisory_lock(db, f"adapter {key}")
    if canary_share and (await get(db, key)).live:
        await _update_pointers(db, key, canary=number, canary_share=canary_share)
    else:
        await _update_pointers(db, key, version=number, canary=None, canary_share=None)


async def _set_live(db: AsyncConnection, key: str, number: int | None) -> Adapter:
    # No claim may choose the traces of a refused version while they are marked as trained in it.
    await advisory_lock(db, "claims")
    await advisory_lock(db, f"adapter {key}")
    adapter = await adapters.get(db, key)
    if number is None:
        await take_off(db, key)
    else:
        version = await version_rows.get(db, key, number)
        if not version.files:
            raise FilesGone(key, number)
        if version.state == "refused":
            await _complete_refused(db, key, number)
        await _go_live(db, adapter, number)
    return await adapters.get(db, key)


async def _complete_refused(db: AsyncConnection, key: str, number: int) -> None:
    """Let a refused version count as published, so that no later version of the adapter learns the same traces.

    A version that was withdrawn after its publication counts already.
    """
    mine = versions.c.adapter == key, versions.c.version == number
    lease_id = await db.scalar(select(versions.c.lease_id).where(*mine))
    refused = leases.c.id == lease_id, leases.c.state == "released"
    # The state of the lease is what a cohort's claim asks for.
    if not (await db.execute(update(leases).where(*refused).values(state="completed", version=number))).rowcount:
        return
    learned = trace_versions.c.adapter == key, trace_versions.c.version == number
    # Only a user's own adapter owns the state of its traces: a cohort's trace may train its user's adapter, too.
    left = (
        traces.c.adapter == key,
        traces.c.state.in_(("waiting", "dead_letter")),
        traces.c.id.in_(select(trace_versions.c.trace_id).where(*learned)),
    )
    await db.execute(update(traces).where(*left).values(state="trained", version=number, lease_id=lease_id))


async def _rollback(db: AsyncConnection, key: str) -> Adapter:
    await advisory_lock(db, f"adapter {key}")
    adapter = await adapters.get(db, key)
    earlier = _rollback_targets(adapter)
    if not earlier:
        raise NothingToRollBack(key)
    with_files = [version.version for version in earlier if version.files]
    if not with_files:
        raise FilesGone(key, earlier[-1].version)
    await _go_live(db, adapter, with_files[-1])
    return await adapters.get(db, key)


async def _withdraw(db: AsyncConnection, key: str, number: int, check: Check) -> Adapter:
    await advisory_lock(db, f"adapter {key}")
    adapter = await adapters.get(db, key)
    version = await version_rows.get(db, key, number)
    if version.state == "refused":
        return adapter
    checks = [each.model_dump() for each in (*version.checks, check)]
    mine = versions.c.adapter == key, versions.c.version == number
    await db.execute(update(versions).where(*mine).values(refused=True, checks=checks))
    if version.state == "live":
        with_files = [each.version for each in _rollback_targets(adapter) if each.files]
        await _update_pointers(db, key, version=with_files[-1] if with_files else None)
    elif version.state == "canary":
        await _update_pointers(db, key, canary=None, canary_share=None)
    return await adapters.get(db, key)


async def _set_canary(db: AsyncConnection, key: str, number: int | None, share: float) -> Adapter:
    await advisory_lock(db, f"adapter {key}")
    await adapters.get(db, key)
    if number is None:
        await _update_pointers(db, key, canary=None, canary_share=None)
    else:
        version = await version_rows.get(db, key, number)
        if not version.files:
            raise FilesGone(key, number)
        if version.state == "refused":
            raise VersionRefused(key, number)
        if version.state == "live":
            raise AlreadyLive(key, number)
        await _update_pointers(db, key, canary=number, canary_share=share)
    return await adapters.get(db, key)


async def take_off(db: AsyncConnection, key: str) -> None:
    """Clear both pointers of an adapter, so that it answers no request."""
    await advisory_lock(db, f"adapter {key}")
    await _update_pointers(db, key, version=None, canary=None, canary_share=None)


async def leave_erased(db: AsyncConnection, key: str) -> None:
    """Move the pointers of an adapter off versions that an erasure withdrew: back as `rollback` does, or off."""
    await advisory_lock(db, f"adapter {key}")
    row = (await db.execute(select(live_versions).where(live_versions.c.adapter == key))).mappings().one_or_none()
    if row is None:
        return
    mine = versions.c.adapter == key
    withdrawn = set(
        (await db.scalars(select(versions.c.version).where(mine, versions.c.erasure_id.is_not(None)))).all()
    )
    if row["canary"] in withdrawn:
        await _update_pointers(db, key, canary=None, canary_share=None)
    if row["version"] in withdrawn:
        earlier = [mine, versions.c.version < row["version"], ~versions.c.refused, versions.c.files]
        if row["canary"] is not None:
            earlier.append(versions.c.version != row["canary"])
        await _update_pointers(db, key, version=await db.scalar(select(func.max(versions.c.version)).where(*earlier)))


def _rollback_targets(adapter: Adapter) -> list[Version]:
    """List accepted versions before the live one, the newest last."""
    if not adapter.live:
        return []
    return [version for version in adapter.versions if version.state == "standby" and version.version < adapter.live]


async def _go_live(db: AsyncConnection, adapter: Adapter, number: int) -> None:
    """Make a version live. Another version that is the canary stays the canary."""
    ended: dict[str, Any] = {"canary": None, "canary_share": None} if adapter.canary == number else {}
    await _update_pointers(db, adapter.key, version=number, **ended)


async def _update_pointers(db: AsyncConnection, key: str, **to: Any) -> None:
    await db.execute(insert_new(db, live_versions), {"adapter": key})
    await db.execute(update(live_versions).where(live_versions.c.adapter == key).values(**to))
