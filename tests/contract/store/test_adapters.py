from __future__ import annotations

from typing import Any

from mindprint_server.store import Store, VersionRecord
from mindprint_server.tenancy import in_tenant


async def uploaded(store: Store, make: Any, user: str) -> str:
    """Store an upload whose publication has not begun, and return the id of the publication."""
    lease = await make.leased(store, user)
    number, engine_id = await store.versions.allocate(lease.adapter)
    version = make.version(lease, number).model_dump() | {"engine_id": engine_id, "artifact": "a" * 64}
    return (await store.publication_jobs.add(lease.id, VersionRecord.model_validate(version))).id


async def test_adapter_of_an_open_publication_counts_as_one_that_exists(store: Store, make: Any) -> None:
    await uploaded(store, make, "ann")
    assert await store.adapters.count() == 1
    assert await store.adapters.exists("user/ann")
    assert not await store.adapters.exists("user/ben")


async def test_adapter_with_a_version_and_an_open_publication_counts_once(store: Store, make: Any) -> None:
    await make.trained(store)
    await uploaded(store, make, "ann")
    assert await store.adapters.count() == 1


async def test_adapter_whose_only_publication_failed_does_not_count(store: Store, make: Any) -> None:
    job = await uploaded(store, make, "ann")
    await store.publication_jobs.fail(job, code="publication_failed", message="m", max_attempts=3)
    assert (await store.adapters.count(), await store.adapters.exists("user/ann")) == (0, False)


async def test_open_publications_of_another_tenant_do_not_count(store: Store, make: Any) -> None:
    await uploaded(store, make, "ann")
    with in_tenant("acme"):
        assert (await store.adapters.count(), await store.adapters.exists("user/ann")) == (0, False)
