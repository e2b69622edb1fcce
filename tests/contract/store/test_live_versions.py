from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mindprint.types import Check
from mindprint_server.store import AlreadyLive, FilesGone, NotFound, Pointers, Store, VersionRefused

KEY = "user/ann"


async def versions(store: Store) -> dict[int, str]:
    return {version.version: version.state for version in (await store.adapter(KEY)).versions}


async def test_a_candidate_answers_a_share_before_it_is_live(store: Store, make: Any) -> None:
    first = await make.trained(store, candidate_share=0.1)
    assert first.state == "live"  # there is nothing that could answer the rest
    second = await make.trained(store, digest="b", candidate_share=0.1)
    assert second.state == "candidate"
    assert await store.live_of(KEY) == Pointers(first, second, 0.1)
    assert await store.live(KEY) == first
    adapter = await store.adapter(KEY)
    assert (adapter.live, adapter.candidate, adapter.share) == (1, 2, 0.1)
    assert await store.adapters() == [adapter]
    assert {t.state for t in await store.traces()} == {"trained"}

    third = await make.trained(store, digest="c", candidate_share=0.2)
    assert await versions(store) == {1: "live", 2: "standby", 3: "candidate"}
    assert third.parent == 1
    promoted = await store.set_live(KEY, 3)
    assert (promoted.live, promoted.candidate, promoted.share) == (3, None, None)
    await make.trained(store, digest="d", candidate_share=0.0)
    assert await versions(store) == {1: "standby", 2: "standby", 3: "standby", 4: "live"}


async def test_a_version_that_goes_live_ends_an_older_candidate(store: Store, make: Any) -> None:
    await make.trained(store)
    await make.trained(store, candidate_share=0.1)
    await make.trained(store)
    assert await versions(store) == {1: "standby", 2: "standby", 3: "live"}
    assert (await store.adapter(KEY)).share is None


async def test_a_person_releases_a_candidate(store: Store, make: Any) -> None:
    for _ in range(3):
        await make.trained(store)
    released = await store.release_candidate(KEY, 2, 0.3)
    assert (released.live, released.candidate, released.share) == (3, 2, 0.3)
    assert (await store.rollback(KEY)).live == 1  # a candidate is still on trial
    assert (await store.release_candidate(KEY, 2, 0.5)).share == 0.5
    ended = await store.release_candidate(KEY, None, 0.5)
    assert (ended.live, ended.candidate, ended.share) == (1, None, None)
    assert await store.release_candidate(KEY, None, 0.5) == ended
    with pytest.raises(AlreadyLive, match=f"{KEY}@1"):
        await store.release_candidate(KEY, 1, 0.1)
    with pytest.raises(NotFound, match=f"{KEY}@9"):
        await store.release_candidate(KEY, 9, 0.1)
    with pytest.raises(NotFound, match="adapter 'user/bob'"):
        await store.release_candidate("user/bob", None, 0.1)


async def test_a_refused_version_is_no_candidate(store: Store, make: Any) -> None:
    await make.refused(store, await make.leased(store))
    with pytest.raises(VersionRefused, match="promote it by name"):
        await store.release_candidate(KEY, 1, 0.1)


async def test_a_candidate_stays_when_the_live_version_moves(store: Store, make: Any) -> None:
    for share in (None, None, 0.1):
        await make.trained(store, candidate_share=share)
    assert (await store.rollback(KEY)).candidate == 3
    assert (await store.set_live(KEY, 2)).candidate == 3
    off = await store.set_live(KEY, None)
    assert (off.live, off.candidate, off.share) == (None, None, None)
    assert await store.live_of(KEY) == Pointers()
    alone = await store.release_candidate(KEY, 3, 0.1)
    assert (alone.live, alone.candidate) == (None, 3)
    assert (await store.serving("ann"))[0] == KEY
    assert (await store.user("ann")).live_version is None
    assert (await store.funnel("ann")).live == 0


async def test_the_nearest_adapter_that_answers_serves(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "ann")
    assert await store.serving("ann") == ("cohort/everyone", Pointers())
    await make.cohort(store, "everyone", "bob")
    everyone = await make.completed(store, await make.cohort_claim(store))
    assert await store.serving("ann") == ("cohort/everyone", Pointers(everyone))
    cooks = await make.completed(store, await make.cohort_claim(store, "cooks"))
    assert await store.serving("ann") == ("cohort/cooks", Pointers(cooks))
    own = await make.trained(store)
    assert await store.serving("ann") == (KEY, Pointers(own))
    assert await store.serving("bob") == await store.serving("nobody") == ("cohort/everyone", Pointers(everyone))
    await store.set_live(KEY, None)
    await store.set_live("cohort/cooks", None)
    assert (await store.serving("ann"))[0] == "cohort/everyone"


async def test_a_live_version_that_misbehaves_is_withdrawn(store: Store, make: Any, check: Check) -> None:
    for _ in range(3):
        await make.trained(store)
    assert (await store.withdraw(KEY, 3, check)).live == 2
    assert await versions(store) == {1: "standby", 2: "live", 3: "refused"}
    again = await store.withdraw(KEY, 3, check)
    assert again == await store.adapter(KEY)
    assert (await store.version(KEY, 3)).checks == [check]
    assert {t.state for t in await store.traces()} == {"trained"}
    # Newer accepted versions are not fallen back to: somebody took them off.
    await store.set_live(KEY, 1)
    off = await store.withdraw(KEY, 1, check)
    assert (off.live, await store.live(KEY)) == (None, None)


async def test_withdrawn_at_once_by_two_replicas_it_falls_back_once(
    store: Store, other: Store, make: Any, check: Check
) -> None:
    for _ in range(3):
        await make.trained(store)
    adapters = await asyncio.gather(*(s.withdraw(KEY, 3, check) for s in (store, other) * 2))
    assert {adapter.live for adapter in adapters} == {2}
    assert (await store.version(KEY, 3)).checks == [check]


async def test_a_candidate_or_a_standby_is_withdrawn(store: Store, make: Any, check: Check) -> None:
    await make.trained(store)
    await make.trained(store)
    await make.trained(store, candidate_share=0.1)
    ended = await store.withdraw(KEY, 3, check)
    assert (ended.live, ended.candidate, ended.share) == (2, None, None)
    assert (await store.withdraw(KEY, 1, check)).live == 2
    assert await versions(store) == {1: "refused", 2: "live", 3: "refused"}
    with pytest.raises(NotFound, match=f"{KEY}@9"):
        await store.withdraw(KEY, 9, check)


async def test_a_refused_version_that_was_promoted_can_be_withdrawn(store: Store, make: Any, check: Check) -> None:
    await make.trained(store)
    gate = Check(name="collapse", value=0.5, bound=0.02, passed=False)
    refused = await make.refused(store, await make.leased(store), checks=[gate])
    assert refused.checks == [gate]
    await store.set_live(KEY, refused.version)
    withdrawn = await store.withdraw(KEY, refused.version, check)
    assert withdrawn.live == 1
    assert withdrawn.versions[1].checks == [gate, check]


async def test_a_completion_that_repeats_after_a_withdrawal_is_still_one(store: Store, make: Any, check: Check) -> None:
    lease = await make.leased(store)
    sent = make.version(lease, await store.next_version(KEY))
    await store.complete(lease.id, sent)
    await store.withdraw(KEY, 1, check)
    assert (await store.complete(lease.id, sent)).state == "refused"
    assert await store.live(KEY) is None


async def test_only_versions_with_files_answer(store: Store, make: Any, check: Check) -> None:
    for _ in range(4):
        await make.trained(store)
    assert await store.forget_files(KEY, 2)
    assert await store.forget_files(KEY, 3)
    for call in (store.set_live(KEY, 3), store.release_candidate(KEY, 3, 0.1)):
        with pytest.raises(FilesGone, match=f"{KEY}@3"):
            await call
    assert (await store.rollback(KEY)).live == 1
    await store.set_live(KEY, 4)
    assert await store.forget_files(KEY, 1)
    with pytest.raises(FilesGone, match=f"{KEY}@3"):
        await store.rollback(KEY)
    assert (await store.withdraw(KEY, 4, check)).live is None
