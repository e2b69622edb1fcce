"""Every test that asks for a `store` runs on SQLite and on PostgreSQL: one suite says what both must do.

MINDPRINT_TEST_POSTGRES names a server that must answer (the checks before a merge do), or is `off`. Without it the
local one is used if it answers; if not, its half of the tests is skipped and the summary says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pytest_asyncio import is_async_test
from sqlalchemy import or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from databases import POSTGRES, new_database
from mindprint.types import (
    DEFAULT_TENANT,
    EVERYONE,
    Check,
    Engagement,
    Lease,
    LeaseRequest,
    Manifest,
    ParityItem,
    ParityResult,
    Profile,
    Provenance,
    Trace,
    Version,
)
from mindprint_server.store import ClaimPolicy, PublicationRecord, Store, VersionRecord, new_id
from mindprint_server.store.batches import DroppedResult, ItemResult
from mindprint_server.store.tables import batch_items, cohorts, metadata, tenants
from mindprint_server.tenancy import in_all_tenants

fixture = partial(pytest_asyncio.fixture, loop_scope="session")
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here share one event loop, as they share the store: thinking_prefix one takes longer than most
    tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents and is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@fixture(scope="session", params=["sqlite"] if POSTGRES == "off" else ["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@fixture
async def empty(dialect: str, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a database without tables, for one test."""
    async with new_database(dialect, tmp_path) as url:
        yield url


@fixture(scope="session")
async def url(dialect: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of the database that `store` is on."""
    async with new_database(dialect, tmp_path_factory.mktemp("store")) as url:
        yield url


@fixture(scope="session")
async def opened(url: str) -> AsyncIterator[tuple[Store, Store]]:
    stores = await Store.open(url), await Store.open(url)
    yield stores
    for store in stores:
        await store.close()


@fixture
async def store(opened: tuple[Store, Store]) -> Store:
    """A store with nothing in it."""

    async def clear(db: AsyncConnection) -> None:
        # The triggers empty the table of counts.
        for table in reversed([table for table in metadata.sorted_tables if not table.info.get("derived")]):
            if table is cohorts:
                goes = or_(cohorts.c.name != EVERYONE, cohorts.c.tenant != DEFAULT_TENANT)
            else:
                goes = tenants.c.id != DEFAULT_TENANT if table is tenants else true()
            await db.execute(table.delete().where(goes))

    with in_all_tenants():
        await opened[0]._database.write(clear)
    return opened[0]


@fixture
def other(opened: tuple[Store, Store], store: Store) -> Store:
    """The same database, as a second process sees it."""
    return opened[1]


class Make:
    """Makes rows; every default can be overridden."""

    T0 = T0

    def engagement(self, n: int, **changes: Any) -> Engagement:
        row = {"id": f"e{n}", "prompt": f"prompt {n}", "response": "yes", "occurred_at": T0 + timedelta(hours=n)}
        return Engagement.model_validate(row | changes)

    async def stored_versions(self, store: Store, *, with_files: bool = False) -> set[tuple[str, int]]:
        """Adapter key and number of all versions, or of those that have files."""
        versions = [version for adapter in await store.adapters.list_page() for version in adapter.versions]
        return {(one.adapter, one.version) for one in versions if one.files or not with_files}

    def profile(self, user: str, **changes: Any) -> Profile:
        row = {
            "user_id": user,
            "version": 0,
            "text": "likes yes",
            "tokens": 3,
            "covers": 1,
            "covers_until": T0,
            "prompt_version": "p1",
            "base_digest": "base",
            "created_at": T0,
        }
        return Profile.model_validate(row | changes)

    def trace(self, user: str, engagement: str | None = "e0", verdict: str = "accepted", **changes: Any) -> Trace:
        row = {
            "id": new_id(),
            "user_id": user,
            "engagement_id": engagement,
            "mode": "personal",
            "query": "prompt",
            "thinking": "because",
            "answer": "yes",
            "verdict": verdict,
            "state": "waiting" if verdict == "accepted" else "stored",
            "prompt_tokens": 30,
            "cached_tokens": 20,
            "thinking_tokens": 10,
            "finish": "stop",
            "provenance": Provenance(
                model="base",
                adapter_digest=None,
                base_digest="base",
                prompt_version="p1",
                mode="personal",
                sampling={"temperature": 0.7},
                seed=1,
                engine="fake",
            ),
            "created_at": T0,
        }
        return Trace.model_validate(row | changes)

    def version(self, lease: Lease, number: int, digest: str = "d", **changes: Any) -> Version:
        row = {
            "adapter": lease.adapter,
            "version": number,
            "state": "standby",
            "digest": digest,
            "base_digest": "base",
            "parent": lease.parent,
            "start": lease.start and f"{lease.start.adapter}@{lease.start.version}",
            "traces": len(lease.trace_ids),
            "parity": ParityResult(passed=True, against_trainer=0.01, against_base=0.2, tokens=4),
            "manifest": Manifest(
                adapter=lease.adapter,
                base_digest="base",
                weights_sha256="0" * 64,
                trace_ids=lease.trace_ids,
                samples={"slow": 1},
                settings={"rank": 8},
                losses={"first": 2.0, "last": 1.0},
                tokens=100,
                seconds=1.5,
                trainer="test",
                parity_items=[ParityItem(prompt_ids=[1], target_ids=[2], logprobs=[-1.0], base_logprobs=[-2.0])],
            ),
            "created_at": T0,
        }
        return Version.model_validate(row | changes)

    async def user(self, store: Store, user: str, engagements: int = 3) -> None:
        await store.engagements.add(user, [self.engagement(n) for n in range(engagements)])

    async def finish(
        self,
        store: Store,
        batch: str,
        user: str,
        engagement: str,
        *,
        traces: Sequence[Trace],
        outcome: str,
        seconds: float = 0.0,
    ) -> list[DroppedResult]:
        """One item of a batch."""
        return await store.batches.finish_items(
            [ItemResult(batch, user, engagement, outcome, traces)], {batch: seconds}
        )

    async def pending(self, store: Store, batch: str) -> list[tuple[str, str]]:
        """The items of a batch that are not done, in their order."""

        async def read(db: AsyncConnection) -> list[tuple[str, str]]:
            items = batch_items.c
            query = select(items.user_id, items.engagement_id).where(items.batch_id == batch, items.outcome.is_(None))
            return [(user_id, id) for user_id, id in await db.execute(query.order_by(items.position))]

        return await store._database.read(read)

    async def waiting(self, store: Store, user: str, count: int) -> list[str]:
        """A user with so many waiting traces, each with a thinking of its own; their ids."""
        await self.user(store, user, 1)
        return [(await store.traces.add(self.trace(user, thinking=f"because {new_id()}"))).id for _ in range(count)]

    async def claim(self, store: Store, **changes: Any) -> Lease | None:
        """A claim; `changes` are fields of `LeaseRequest` and `ClaimPolicy`, and `now`."""
        now = changes.pop("now", None)
        terms: dict[str, Any] = {"owner": "t", "max_traces": 100, "max_attempts": 3} | changes
        request = {name: terms.pop(name) for name in LeaseRequest.model_fields if name in terms}
        return await store.leases.claim(LeaseRequest.model_validate(request), ClaimPolicy(**terms), now=now)

    async def leased(self, store: Store, user: str = "ann", count: int = 2, **changes: Any) -> Lease:
        await self.waiting(store, user, count)
        lease = await self.claim(store, adapter=f"user/{user}", **changes)
        assert lease is not None
        return lease

    async def completed(self, store: Store, lease: Lease | None, digest: str = "d", **terms: Any) -> Version:
        """The version that comes of a lease."""
        assert lease is not None
        return await store.publication.publish(lease.id, await self._next(store, lease, digest), **terms)

    async def refused(self, store: Store, lease: Lease | None, digest: str = "d", **changes: Any) -> Version:
        """The version of a lease that its gate refuses."""
        assert lease is not None
        return await store.publication.refuse(
            lease.id, await self._next(store, lease, digest, **changes), max_attempts=3
        )

    async def _next(self, store: Store, lease: Lease, digest: str, **changes: Any) -> Version:
        return self.version(lease, (await store.versions.allocate(lease.adapter)).version, digest, **changes)

    async def uploaded(self, store: Store, user: str = "ann") -> PublicationRecord:
        """The job of an upload whose publication has not begun."""
        lease = await self.leased(store, user)
        number, engine_id = await store.versions.allocate(lease.adapter)
        version = self.version(lease, number).model_dump() | {"engine_id": engine_id, "artifact": "a" * 64}
        return await store.publication_jobs.add(lease.id, VersionRecord.model_validate(version))

    async def trained(self, store: Store, user: str = "ann", digest: str = "d", **terms: Any) -> Version:
        """A new version of a user, of two new traces; live unless told otherwise."""
        return await self.completed(store, await self.leased(store, user), digest, **terms)

    async def cohort(self, store: Store, name: str, *users: str, traces: int = 1) -> list[str]:
        """A cohort of users with so many new waiting traces each; the traces' ids, by age."""
        ids = [id for user in users for id in await self.waiting(store, user, traces)]
        if name != EVERYONE:
            await store.cohorts.put(name, "")
            await store.cohorts.add_members(name, users)
        return ids

    async def cohort_claim(self, store: Store, name: str | None = EVERYONE, **changes: Any) -> Lease | None:
        adapter = name and f"cohort/{name}"
        return await self.claim(store, adapter=adapter, **({"cohort_min_traces": 1} | changes))

    def failed_check(self) -> Check:
        """Why a version is taken out of service."""
        return Check(name="loop rate", value=0.4, bound=0.05, passed=False, detail="20 of 50 answers")


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


@pytest.fixture
def check(make: Make) -> Check:
    """Why a version is taken out of service."""
    return make.failed_check()
