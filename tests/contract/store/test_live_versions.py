from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mindprint.types import Check
from mindprint_server.store import AlreadyLive, FilesGone, Pointers, RecordNotFound, Store, VersionRefused

KEY = "user/ann"


async def versions(store: Store) -> dict[int, str]:
    return {version.version: version.state for version in (await store.adapters.get(KEY)).versions}


async def test_canary_answers_a_share_before_it_is_live(store: Store, make: Any) -> None:
    first = await make.trained(store, canary_share=0.1)
    assert first.state == "live"  # there is nothing that could answer the rest
    second = await make.trained(store, digest="b", canary_share=0.1)
    assert second.state == "canary"
    assert await store.live_versions.get(KEY) == Pointers(first, second, 0.1)
    assert (await store.live_versions.get(KEY)).live == first
    adapter = await store.adapters.get(KEY)
    assert (adapter.live, adapter.canary, adapter.canary_share) == (1, 2, 0.1)
    assert await store.adapters.list_page() == [adapter]
    assert {t.state for t in await store.traces.find()} == {"trained"}

    third = await make.trained(store, digest="c", canary_share=0.2)
    assert await versions(store) == {1: "live", 2: "standby", 3: "canary"}
    assert third.parent == 1
    promoted = await store.live_versions.set_live(KEY, 3)
    assert (promoted.live, promoted.canary, promoted.canary_share) == (3, None, None)
    await make.trained(store, digest="d", canary_share=0.0)
    assert await versions(store) == {1: "standby", 2: "standby", 3: "standby", 4: "live"}


async def test_version_that_goes_live_ends_an_older_canary(store: Store, make: Any) -> None:
    await make.trained(store)
    await make.trained(store, canary_share=0.1)
    await make.trained(store)
    assert await versions(store) == {1: "standby", 2: "standby", 3: "live"}
    assert (await store.adapters.get(KEY)).canary_share is None


async def test_canary_is_set_and_ended_by_hand(store: Store, make: Any) -> None:
    for _ in range(3):
        await make.trained(store)
    released = await store.live_versions.set_canary(KEY, 2, 0.3)
    assert (released.live, released.canary, released.canary_share) == (3, 2, 0.3)
    assert (await store.live_versions.rollback(KEY)).live == 1  # a canary is not live yet
    assert (await store.live_versions.set_canary(KEY, 2, 0.5)).canary_share == 0.5
    ended = await store.live_versions.set_canary(KEY, None, 0.5)
    assert (ended.live, ended.canary, ended.canary_share) == (1, None, None)
    assert await store.live_versions.set_canary(KEY, None, 0.5) == ended
    with pytest.raises(AlreadyLive, match=f"{KEY}@1"):
        await store.live_versions.set_canary(KEY, 1, 0.1)
    with pytest.raises(RecordNotFound, match=f"{KEY}@9"):
        await store.live_versions.set_canary(KEY, 9, 0.1)
    with pytest.raises(RecordNotFound, match="adapter 'user/bob'"):
        await store.live_versions.set_canary("user/bob", None, 0.1)


async def test_refused_version_cannot_be_the_canary(store: Store, make: Any) -> None:
    await make.refused(store, await make.leased(store))
    with pytest.raises(VersionRefused, match="promote it by number"):
        await store.live_versions.set_canary(KEY, 1, 0.1)


async def test_canary_stays_when_the_live_version_moves(store: Store, make: Any) -> None:
    for share in (None, None, 0.1):
        await make.trained(store, canary_share=share)
    assert (await store.live_versions.rollback(KEY)).canary == 3
    assert (await store.live_versions.set_live(KEY, 2)).canary == 3
    off = await store.live_versions.set_live(KEY, None)
    assert (off.live, off.canary, off.canary_share) == (None, None, None)
    assert await store.live_versions.get(KEY) == Pointers()
    alone = await store.live_versions.set_canary(KEY, 3, 0.1)
    assert (alone.live, alone.canary) == (None, 3)
    assert (await store.live_versions.resolve_for_user("ann"))[0] == KEY
    assert (await store.users.get("ann")).live_version is None
    assert (await store.funnel.get("ann")).live == 0


async def test_the_nearest_adapter_that_answers_serves(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "ann")
    assert await store.live_versions.resolve_for_user("ann") == ("cohort/everyone", Pointers())
    await make.cohort(store, "everyone", "bob")
    everyone = await make.completed(store, await make.cohort_claim(store))
    assert await store.live_versions.resolve_for_user("ann") == ("cohort/everyone", Pointers(everyone))
    cooks = await make.completed(store, await make.cohort_claim(store, "cooks"))
    assert await store.live_versions.resolve_for_user("ann") == ("cohort/cooks", Pointers(cooks))
    own = await make.trained(store)
    assert await store.live_versions.resolve_for_user("ann") == (KEY, Pointers(own))
    assert (
        await store.live_versions.resolve_for_user("bob")
        == await store.live_versions.resolve_for_user("nobody")
        == ("cohort/everyone", Pointers(everyone))
    )
    await store.live_versions.set_live(KEY, None)
    await store.live_versions.set_live("cohort/cooks", None)
    assert (await store.live_versions.resolve_for_user("ann"))[0] == "cohort/everyone"


async def test_a_live_version_that_misbehaves_is_withdrawn(store: Store, make: Any, check: Check) -> None:
    for _ in range(3):
        await make.trained(store)
    assert (await store.live_versions.withdraw(KEY, 3, check)).live == 2
    assert await versions(store) == {1: "standby", 2: "live", 3: "refused"}
    again = await store.live_versions.withdraw(KEY, 3, check)
    assert again == await store.adapters.get(KEY)
    assert (await store.versions.get(KEY, 3)).checks == [check]
    assert {t.state for t in await store.traces.find()} == {"trained"}
    # Newer accepted versions are not fallen back to: somebody took them off.
    await store.live_versions.set_live(KEY, 1)
    off = await store.live_versions.withdraw(KEY, 1, check)
    assert (off.live, (await store.live_versions.get(KEY)).live) == (None, None)


async def test_withdrawn_at_once_by_two_replicas_it_falls_back_once(
    store: Store, other: Store, make: Any, check: Check
) -> None:
    for _ in range(3):
        await make.trained(store)
    adapters = await asyncio.gather(*(s.live_versions.withdraw(KEY, 3, check) for s in (store, other) * 2))
    assert {adapter.live for adapter in adapters} == {2}
    assert (await store.versions.get(KEY, 3)).checks == [check]


async def test_canary_or_standby_is_withdrawn(store: Store, make: Any, check: Check) -> None:
    await make.trained(store)
    await make.trained(store)
    await make.trained(store, canary_share=0.1)
    ended = await store.live_versions.withdraw(KEY, 3, check)
    assert (ended.live, ended.canary, ended.canary_share) == (2, None, None)
    assert (await store.live_versions.withdraw(KEY, 1, check)).live == 2
    assert await versions(store) == {1: "refused", 2: "live", 3: "refused"}
    with pytest.raises(RecordNotFound, match=f"{KEY}@9"):
        await store.live_versions.withdraw(KEY, 9, check)


async def test_a_refused_version_that_was_promoted_can_be_withdrawn(store: Store, make: Any, check: Check) -> None:
    await make.trained(store)
    gate = Check(name="collapse", value=0.5, bound=0.02, passed=False)
    refused = await make.refused(store, await make.leased(store), checks=[gate])
    assert refused.checks == [gate]
    await store.live_versions.set_live(KEY, refused.version)
    withdrawn = await store.live_versions.withdraw(KEY, refused.version, check)
    assert withdrawn.live == 1
    assert withdrawn.versions[1].checks == [gate, check]


async def test_promoted_refused_version_keeps_its_traces_from_later_leases(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    await make.refused(store, lease)
    await store.live_versions.set_live(KEY, 1)
    assert {(trace.state, trace.version) for trace in await store.traces.find()} == {("trained", 1)}
    assert await make.claim(store, adapter=KEY) is None
    assert (await store.leases.get(lease.id)).state == "completed"
    later = await make.leased(store)
    assert not set(lease.trace_ids) & set(later.trace_ids)
    assert later.start.version == 1


async def test_promoted_refused_version_leaves_traces_that_are_leased_or_trained_elsewhere(
    store: Store, make: Any
) -> None:
    first = await make.leased(store)
    await make.refused(store, first)
    trained = await make.claim(store, adapter=KEY, max_traces=1)
    await make.completed(store, trained)
    leased = await make.claim(store, adapter=KEY)
    assert {*trained.trace_ids, *leased.trace_ids} == {*first.trace_ids}
    await store.live_versions.set_live(KEY, 1)
    states = {trace.id: (trace.state, trace.version) for trace in await store.traces.find()}
    assert states == {trained.trace_ids[0]: ("trained", 2), leased.trace_ids[0]: ("leased", None)}
    assert (await make.completed(store, leased)).state == "live"


async def test_promoted_refused_version_takes_its_dead_letters(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    version = make.version(lease, (await store.versions.allocate(KEY)).version)
    await store.publication.refuse(lease.id, version, max_attempts=1)
    assert {trace.state for trace in await store.traces.find()} == {"dead_letter"}
    await store.live_versions.set_live(KEY, 1)
    assert {(trace.state, trace.version) for trace in await store.traces.find()} == {("trained", 1)}


async def test_promoted_refused_version_of_a_cohort_is_not_trained_again(store: Store, make: Any) -> None:
    await make.cohort(store, "everyone", "ann", "bob")
    await make.refused(store, await make.cohort_claim(store))
    await store.live_versions.set_live("cohort/everyone", 1)
    assert await make.cohort_claim(store) is None
    assert {trace.state for trace in await store.traces.find()} == {"waiting"}  # for the users' own adapters


async def test_a_completion_that_repeats_after_a_withdrawal_is_still_one(store: Store, make: Any, check: Check) -> None:
    lease = await make.leased(store)
    sent = make.version(lease, (await store.versions.allocate(KEY)).version)
    await store.publication.publish(lease.id, sent)
    await store.live_versions.withdraw(KEY, 1, check)
    assert (await store.publication.publish(lease.id, sent)).state == "refused"
    assert (await store.live_versions.get(KEY)).live is None


async def test_only_versions_with_files_answer(store: Store, make: Any, check: Check) -> None:
    for _ in range(4):
        await make.trained(store)
    assert await store.retention.mark_files_removed(KEY, 2)
    assert await store.retention.mark_files_removed(KEY, 3)
    for call in (store.live_versions.set_live(KEY, 3), store.live_versions.set_canary(KEY, 3, 0.1)):
        with pytest.raises(FilesGone, match=f"{KEY}@3"):
            await call
    assert (await store.live_versions.rollback(KEY)).live == 1
    await store.live_versions.set_live(KEY, 4)
    assert await store.retention.mark_files_removed(KEY, 1)
    with pytest.raises(FilesGone, match=f"{KEY}@3"):
        await store.live_versions.rollback(KEY)
    assert (await store.live_versions.withdraw(KEY, 4, check)).live is None
