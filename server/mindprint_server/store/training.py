"""The trainer's side of the store: leases on traces, and the versions that come of them."""

from __future__ import annotations

from datetime import UTC, datetime

from mindprint.types import Adapter, Check, Lease, Lineage, Trace, Version
from mindprint_server.store import (
    lease_selection,
    leases,
    lineage,
    live_versions,
    publication,
    retention,
    traces,
    versions,
)
from mindprint_server.store.database import Database
from mindprint_server.store.holdout import Holdout
from mindprint_server.store.lease_selection import StartFrom
from mindprint_server.store.live_versions import Pointers

NONE_HELD = Holdout()


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
        holdout: Holdout = NONE_HELD,
        start_from: StartFrom = "parent",
        cohort_min_traces: int | None = None,
        now: datetime | None = None,
    ) -> Lease | None:
        """Leases the oldest accepted traces of an adapter (None: of the one with most) that it was not trained on.

        First the leases that ran out end: their traces wait again, or are dead after `max_attempts`. A user's adapter
        takes the user's waiting traces. A cohort's takes those of all its users, also what a user's own adapter has or
        waits for, once there are `min_traces` of them and, unless it is named, `cohort_min_traces` (None: no cohort is
        claimed, named or not); after `max_attempts` bad ends it waits for newer traces. If none is named, cohorts come
        before users, who start from them. Traces of held-out engagements do not count and wait. One active lease an
        adapter. None: too few.

        The lease says what is `held_out` of its users, without what its start or the live version has seen already,
        and where to `start`: by "parent" with the adapter's own live version, else with that of the user's cohort,
        else of `everyone`; by "cohort" a user's adapter never starts with its own; by "base" all start afresh.
        The lease has no samples; its base digest and limits are the caller's to fill in.
        """
        return await self._write(
            lease_selection.claim,
            owner=owner,
            adapter=adapter,
            ttl_s=ttl_s,
            min_traces=min_traces,
            max_traces=max_traces,
            max_attempts=max_attempts,
            holdout=holdout,
            start_from=start_from,
            cohort_min_traces=cohort_min_traces,
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

    async def note_samples(
        self,
        lease_id: str,
        fast: dict[str, list[str]],
        rejected: dict[str, list[str]] | None = None,
        now: datetime | None = None,
    ) -> None:
        """Keeps, by user, which engagements the lease's fast samples are of, and which rejected traces its others.
        LeaseLost: it has ended."""
        await self._write(leases.note_samples, lease_id, fast, rejected or {}, now or _now())

    async def lease_traces(self, lease_id: str) -> list[Trace]:
        """The traces that the lease holds, or that were trained under it, by id; of a cohort's, all that it lists."""
        return await self._read(traces.of_lease, lease_id)

    # --- adapters ---

    async def next_version(self, key: str) -> int:
        """A version number, with an engine id, that no other call has got or will get."""
        return await self._write(versions.next_version, key)

    async def engine_id(self, key: str, n: int) -> int:
        """A positive number for the engine, unique over all adapters, there from `next_version` on."""
        return await self._read(versions.engine_id, key, n)

    async def complete(
        self, lease_id: str, version: Version, *, candidate_share: float | None = None, now: datetime | None = None
    ) -> Version:
        """Stores the version, takes it live, marks the lease's traces as trained in it: all together, or nothing.

        With a `candidate_share` above 0 it becomes the candidate instead, unless nothing is live. An earlier candidate
        is on standby then. What the version started from is taken from the lease, whatever it says itself.
        A repeat with the same digest returns what is stored. LeaseLost: the lease has ended otherwise.
        """
        return await self._write(publication.complete, lease_id, version, candidate_share, now or _now())

    async def refuse(
        self, lease_id: str, version: Version, *, max_attempts: int, now: datetime | None = None
    ) -> Version:
        """Stores the version as refused; the traces wait again, or are dead. Repeats and LeaseLost as in `complete`."""
        return await self._write(publication.refuse, lease_id, version, max_attempts, now or _now())

    async def adapter(self, key: str) -> Adapter:
        return await self._read(versions.adapter, key)

    async def adapters(self) -> list[Adapter]:
        """Every adapter that has a version, by key."""
        return await self._read(versions.adapters)

    async def version(self, key: str, n: int) -> Version:
        return await self._read(versions.get, key, n)

    async def live(self, key: str) -> Version | None:
        return await self._read(live_versions.live, key)

    async def live_of(self, key: str) -> Pointers:
        """What answers for an adapter; all None if it is off or has no version."""
        return await self._read(live_versions.of, key)

    async def serving(self, user_id: str) -> tuple[str, Pointers]:
        """The adapter key that answers for a user, with its pointers: the user's own if it has a live version or a
        candidate, else the cohort's if that has, else that of `everyone`, which may have none (the base answers).
        A user who is not stored is one of `everyone`."""
        return await self._read(live_versions.serving, user_id)

    async def set_live(self, key: str, version: int | None) -> Adapter:
        """Points the adapter at a version, also a refused one; None takes it off, its candidate too.

        The candidate that goes live is no candidate any more. FilesGone: retention has removed its files.
        """
        return await self._write(live_versions.set_live, key, version)

    async def rollback(self, key: str) -> Adapter:
        """Points the adapter at the newest version before the live one that was not refused and still has files.

        NothingToRollBack: none was accepted before it. FilesGone: some were, but none has files.
        """
        return await self._write(live_versions.rollback, key)

    async def withdraw(self, key: str, n: int, check: Check) -> Adapter:
        """Takes out of service a version that misbehaves: it is refused from now on, `check` stands among its checks.

        If it was live, the adapter falls back as `rollback` does, or is off; if it was the candidate, there is none.
        A repeat changes nothing.
        """
        return await self._write(live_versions.withdraw, key, n, check)

    async def release_candidate(self, key: str, version: int | None, share: float) -> Adapter:
        """A version answers `share` of the adapter's requests, more than 0 and less than 1; None ends that.

        VersionRefused, FilesGone, AlreadyLive: it cannot.
        """
        return await self._write(live_versions.release_candidate, key, version, share)

    # --- retention and lineage ---

    async def pin(self, key: str, n: int, pinned: bool) -> Version:
        """A pinned version keeps its files. FilesGone: they are removed already."""
        return await self._write(retention.pin, key, n, pinned)

    async def prunable(self, key: str, keep: int) -> list[int]:
        """Versions whose files may go, oldest first: nothing needs them, and they are neither among the newest `keep`
        good ones nor among the newest `keep` refused ones."""
        return await self._read(retention.prunable, key, keep)

    async def forget_files(self, key: str, n: int) -> bool:
        """Notes that a version has no files from now on; then remove them.

        False: it is live, the candidate, pinned, or what an active lease starts with. Nothing changes: leave them.
        """
        return await self._write(retention.forget_files, key, n)

    async def known_versions(self, *, with_files: bool = False) -> set[tuple[str, int]]:
        """(key, number) of every stored version, or of those that have files; files of others are orphans."""
        return await self._read(versions.known_versions, with_files)

    async def lineage(self, key: str, n: int) -> Lineage:
        """What a version was trained on and began with. Traces that are erased since are not in it."""
        return await self._read(lineage.of_version, key, n)


def _now() -> datetime:
    return datetime.now(UTC)
