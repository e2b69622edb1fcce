"""Publication jobs: when their rows go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mindprint_server.store import LeaseLost, PublicationRecord, RecordNotFound, Store, VersionRecord
from mindprint_server.tenancy import in_tenant

HOUR = timedelta(hours=1)


async def failed(store: Store, make: Any, user: str = "ann") -> PublicationRecord:
    job: PublicationRecord = await make.uploaded(store, user)
    await store.publication_jobs.fail(job.id, code="publication_failed", message="m", max_attempts=3)
    return await store.publication_jobs.get(job.id)


async def test_publications_go_once_they_ended_before_the_bound(store: Store, make: Any) -> None:
    gone, stays = await failed(store, make), await make.uploaded(store, "bob")
    assert gone.finished_at is not None
    assert await store.publication_jobs.remove_ended(gone.finished_at) == 0, "the bound itself is not before it"
    assert await store.publication_jobs.remove_ended(gone.finished_at + HOUR) == 1
    with pytest.raises(RecordNotFound):
        await store.publication_jobs.get(gone.id)
    assert await store.publication_jobs.remove_ended(datetime.now(UTC) + 24 * HOUR) == 0, "an open one never goes"
    assert (await store.publication_jobs.get(stays.id)).state == "stored"


async def test_publications_of_all_tenants_go(store: Store, make: Any) -> None:
    with in_tenant("other"):
        gone = await failed(store, make)
    assert await store.publication_jobs.remove_ended(datetime.now(UTC) + HOUR) == 1
    with in_tenant("other"), pytest.raises(RecordNotFound):
        await store.publication_jobs.get(gone.id)


async def test_version_stays_without_its_publication_and_its_lease_takes_no_upload(store: Store, make: Any) -> None:
    job = await make.uploaded(store)
    lease = await store.leases.get(job.lease_id)
    version = VersionRecord.model_validate(
        {**make.version(lease, job.version).model_dump(), "engine_id": job.engine_id, "artifact": job.artifact}
    )
    published = await store.publication.publish(lease.id, version)
    assert await store.publication_jobs.remove_ended(datetime.now(UTC) + HOUR) == 1
    assert await store.versions.get(lease.adapter, job.version) == published
    with pytest.raises(LeaseLost):
        await store.publication_jobs.add(lease.id, version)
