"""The trainer's side of the store: leases on traces, and the versions that come of them."""

from __future__ import annotations

from datetime import UTC, datetime

from mindprint.types import Adapter, Lease, Trace, Version

from . import adapters, leases, traces
from .db import Database


class Training:
    """`Store` is this and the application's side; see there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read = database.read
        self._write = database.write

    # --- leases ---

    async def claim(
        self,
        *,
        owner: str,
        adapter: str | None,
        ttl_s: float,
        min_traces: int,
        max_traces: int,
        max_attempts: int,
        now: datetime | None = None,
    ) -> Lease | None:
        """Leases the oldest waiting traces of an adapter (None: of the one with most) that nobody holds.

        First the traces of leases that ran out wait again, or are dead after `max_attempts`. None: too few wait.
        The lease has no samples; its base digest and limits are the caller's to fill in.
        """
        return await self._write(
            leases.claim,
            owner=owner,
            adapter=adapter,
            ttl_s=ttl_s,
            min_traces=min_traces,
            max_traces=max_traces,
            max_attempts=max_attempts,
            now=now or _now(),
        )

    async def heartbeat(self, lease_id: str, ttl_s: float, now: datetime | None = None) -> Lease:
        """The lease now ends in `ttl_s` seconds. LeaseLost: it has ended already."""
        return await self._write(leases.heartbeat, lease_id, ttl_s, now or _now())

    async def release(self, lease_id: str, now: datetime | None = None) -> Lease:
        """The traces wait again, their attempts unchanged. LeaseLost: it has ended otherwise."""
        return await self._write(leases.release, lease_id, now or _now())

    async def lease(self, lease_id: str) -> Lease:
        return await self._read(leases.get, lease_id)

    async def lease_traces(self, lease_id: str) -> list[Trace]:
        """The traces that the lease holds, or that were trained under it, by id."""
        return await self._read(traces.of_lease, lease_id)

    # --- adapters ---

    async def next_version(self, key: str) -> int:
        """A version number, with an engine id, that no other call has got or will get."""
        return await self._write(adapters.next_version, key)

    async def engine_id(self, key: str, n: int) -> int:
        """A positive number for the engine, unique over all adapters, there from `next_version` on."""
        return await self._read(adapters.engine_id, key, n)

    async def complete(self, lease_id: str, version: Version, *, now: datetime | None = None) -> Version:
        """Stores the version, takes it live, marks the lease's traces as trained in it: all together, or nothing.

        A repeat with the same digest returns what is stored. LeaseLost: the lease has ended otherwise.
        """
        return await self._write(adapters.complete, lease_id, version, now or _now())

    async def refuse(
        self, lease_id: str, version: Version, *, max_attempts: int, now: datetime | None = None
    ) -> Version:
        """Stores the version as refused; the traces wait again, or are dead. Repeats and LeaseLost as in `complete`."""
        return await self._write(adapters.refuse, lease_id, version, max_attempts, now or _now())

    async def adapter(self, key: str) -> Adapter:
        return await self._read(adapters.adapter, key)

    async def adapters(self) -> list[Adapter]:
        """Every adapter that has a version, by key."""
        return await self._read(adapters.adapters)

    async def version(self, key: str, n: int) -> Version:
        return await self._read(adapters.get, key, n)

    async def live(self, key: str) -> Version | None:
        return await self._read(adapters.live, key)

    async def set_live(self, key: str, version: int | None) -> Adapter:
        """Points the adapter at a version, also a refused one; None takes it off."""
        return await self._write(adapters.set_live, key, version)

    async def rollback(self, key: str) -> Adapter:
        """Points the adapter at the newest version before the live one that was not refused. NothingToRollBack."""
        return await self._write(adapters.rollback, key)

    async def known_versions(self) -> set[tuple[str, int]]:
        """(key, number) of every stored version; files of others are orphans."""
        return await self._read(adapters.known_versions)


def _now() -> datetime:
    return datetime.now(UTC)
