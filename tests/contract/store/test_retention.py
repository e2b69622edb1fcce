from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mindprint_server.store import FilesGone, RecordNotFound, Store

KEY = "user/ann"


async def test_the_newest_stay_and_whatever_is_needed(store: Store, make: Any) -> None:
    for share in (None, None, None, None, None, 0.1):
        await make.trained(store, canary_share=share)
    assert await store.retention.list_prunable(KEY, 2) == [1, 2, 3, 4]
    assert await store.retention.list_prunable(KEY, 0) == [1, 2, 3, 4]
    assert await store.retention.list_prunable(KEY, 9) == []
    assert (await store.retention.pin(KEY, 1, True)).pinned
    await store.live_versions.set_live(KEY, 2)
    await store.live_versions.set_canary(KEY, 3, 0.1)
    assert await store.retention.list_prunable(KEY, 1) == [4, 5]
    assert not (await store.retention.pin(KEY, 1, False)).pinned
    assert await store.retention.list_prunable(KEY, 1) == [1, 4, 5]
    with pytest.raises(RecordNotFound, match="adapter 'user/bob'"):
        await store.retention.list_prunable("user/bob", 1)


async def test_refused_versions_do_not_crowd_out_the_good_ones(store: Store, make: Any) -> None:
    await make.trained(store)
    await make.trained(store)
    for _ in range(4):
        await make.refused(store, await make.leased(store, count=1))
    assert await store.retention.list_prunable(KEY, 2) == [3, 4]
    assert await store.retention.list_prunable(KEY, 1) == [1, 3, 4, 5]


async def test_files_go_but_the_row_stays(store: Store, make: Any) -> None:
    first = await make.trained(store)
    await make.trained(store)
    assert first.files
    assert await store.retention.mark_files_removed(KEY, 1)
    assert await store.retention.mark_files_removed(KEY, 1)
    gone = await store.versions.get(KEY, 1)
    assert gone == first.model_copy(update={"state": "standby", "files": False})
    assert await store.retention.list_prunable(KEY, 0) == []
    assert await make.stored_versions(store) == {(KEY, 1), (KEY, 2)}
    assert await make.stored_versions(store, with_files=True) == {(KEY, 2)}
    with pytest.raises(FilesGone, match=f"{KEY}@1"):
        await store.retention.pin(KEY, 1, True)
    with pytest.raises(RecordNotFound, match=f"{KEY}@9"):
        await store.retention.mark_files_removed(KEY, 9)
    with pytest.raises(RecordNotFound, match=f"{KEY}@9"):
        await store.retention.pin(KEY, 9, True)


async def test_files_that_are_needed_by_now_stay(store: Store, make: Any) -> None:
    for share in (None, None, 0.1):
        await make.trained(store, canary_share=share)
    await store.retention.pin(KEY, 1, True)
    for version in (1, 2, 3):
        assert not await store.retention.mark_files_removed(KEY, version)
    assert {v.files for v in (await store.adapters.get(KEY)).versions} == {True}


async def test_what_a_trainer_starts_with_stays_while_the_lease_is_active(store: Store, make: Any) -> None:
    await make.trained(store)
    await make.trained(store)
    lease = await make.leased(store)
    assert lease.start.version == 2
    await store.live_versions.set_live(KEY, 1)
    assert await store.retention.list_prunable(KEY, 0) == []
    assert not await store.retention.mark_files_removed(KEY, 2)
    await store.leases.release(lease.id)
    assert await store.retention.list_prunable(KEY, 0) == [2]
    assert await store.retention.mark_files_removed(KEY, 2)


async def test_a_cohort_version_stays_while_a_user_starts_with_it(store: Store, make: Any) -> None:
    await make.cohort(store, "everyone", "ann")
    await make.completed(store, await make.cohort_claim(store))
    assert (await make.claim(store)).start.adapter == "cohort/everyone"
    await store.live_versions.set_live("cohort/everyone", None)
    assert await store.retention.list_prunable("cohort/everyone", 0) == []


async def test_no_claim_starts_with_files_that_are_going(store: Store, other: Store, make: Any) -> None:
    """Whatever comes first of a promotion, a claim and the removal, no active lease starts without files."""
    for n in range(3):
        user = f"u{n}"
        key = f"user/{user}"
        for _ in range(2):
            await make.trained(store, user)
        await make.waiting(store, user, 1)
        calls = (
            store.live_versions.set_live(key, 1),
            make.claim(other, adapter=key),
            other.retention.mark_files_removed(key, 1),
        )
        promoted, lease, went = await asyncio.gather(*calls, return_exceptions=True)
        version = await store.versions.get(key, 1)
        assert version.files is (went is not True)
        assert isinstance(promoted, FilesGone) is (version.state != "live")
        assert lease.start.version == 2 or version.files
