from __future__ import annotations

from typing import Any

from mindprint_server.store import Store
from mindprint_server.tenancy import in_tenant


async def test_adapter_of_an_open_publication_counts_as_one_that_exists(store: Store, make: Any) -> None:
    await make.uploaded(store, "ann")
    assert await store.adapters.count() == 1
    assert await store.adapters.exists("user/ann")
    assert not await store.adapters.exists("user/ben")


async def test_adapter_with_a_version_and_an_open_publication_counts_once(store: Store, make: Any) -> None:
    await make.trained(store)
    await make.uploaded(store, "ann")
    assert await store.adapters.count() == 1


async def test_adapter_whose_only_publication_failed_does_not_count(store: Store, make: Any) -> None:
    job = await make.uploaded(store, "ann")
    await store.publication_jobs.fail(job.id, code="publication_failed", message="m", max_attempts=3)
    assert (await store.adapters.count(), await store.adapters.exists("user/ann")) == (0, False)


async def test_open_publications_of_another_tenant_do_not_count(store: Store, make: Any) -> None:
    await make.uploaded(store, "ann")
    with in_tenant("acme"):
        assert (await store.adapters.count(), await store.adapters.exists("user/ann")) == (0, False)
