"""Which adapter a claim chooses when cohorts have their turn, and where training starts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from mindprint.types import Lease
from mindprint_server.store import Holdout, LeaseLost, Store

SECOND = timedelta(seconds=1)
EVERYONE = "cohort/everyone"


def name(lease: Lease | None) -> str | None:
    return lease.adapter if lease else None


async def test_a_cohort_takes_traces_of_all_its_users_in_any_state(store: Store, make: Any) -> None:
    trained = await make.trained(store, "ann")
    await make.leased(store, "bob", 1)
    waiting = await make.waiting(store, "carl", 1)
    await store.traces.add(make.trace("carl", verdict="rejected"))
    await make.cohort(store, "cooks", "dora")
    before = [(t.id, t.state, t.version) for t in await store.traces.find()]
    lease = await make.cohort_claim(store)
    assert (lease.adapter, lease.attempt, lease.parent, lease.start) == (EVERYONE, 1, None, None)
    assert len(lease.trace_ids) == 4
    assert waiting[0] in lease.trace_ids
    assert {t.user_id for t in await store.traces.list_of_lease(lease.id)} == {"ann", "bob", "carl"}
    assert [(t.id, t.state, t.version) for t in await store.traces.find()] == before
    assert await store.leases.get(lease.id) == lease
    assert trained.version == 1


async def test_without_a_bound_no_cohort_is_claimed(store: Store, make: Any) -> None:
    await make.waiting(store, "ann", 1)
    assert await make.cohort_claim(store, cohort_min_traces=None) is None
    assert name(await make.claim(store)) == "user/ann"


async def test_a_cohort_needs_enough_new_traces(store: Store, make: Any) -> None:
    ids = await make.cohort(store, "everyone", "ann", "bob", traces=2)
    assert await make.cohort_claim(store, None, min_traces=3, cohort_min_traces=5) is None
    assert await make.cohort_claim(store, None, min_traces=5, cohort_min_traces=1) is None
    lease = await make.cohort_claim(store, None, cohort_min_traces=4, max_traces=3)
    assert (lease.adapter, lease.trace_ids) == (EVERYONE, ids[:3])
    await make.completed(store, lease)
    assert name(await make.cohort_claim(store, None, cohort_min_traces=2)) == "user/ann"
    assert (await make.cohort_claim(store, None)).trace_ids == ids[3:]


async def test_a_cohort_that_is_named_waits_only_for_what_the_claim_wants(store: Store, make: Any) -> None:
    ids = await make.cohort(store, "everyone", "ann", "bob", traces=2)
    assert await make.cohort_claim(store, min_traces=5, cohort_min_traces=64) is None
    lease = await make.cohort_claim(store, min_traces=4, cohort_min_traces=64)
    assert lease.trace_ids == ids
    await make.completed(store, lease)
    assert await make.cohort_claim(store, cohort_min_traces=64) is None, "nothing is new to it"


async def test_cohorts_go_before_users_then_the_neediest(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "ann", "bob", traces=2)
    await make.cohort(store, "everyone", "carl", traces=3)
    terms = {"name": None, "cohort_min_traces": 2}
    claimed = [name(await make.cohort_claim(store, **terms)) for _ in range(6)]
    assert claimed == ["cohort/cooks", EVERYONE, "user/carl", "user/ann", "user/bob", None]


async def test_a_claim_of_a_user_passes_over_cohorts(store: Store, make: Any) -> None:
    await make.waiting(store, "ann", 1)
    assert name(await make.claim(store, adapter="user/ann", cohort_min_traces=1)) == "user/ann"
    assert name(await make.claim(store, cohort_min_traces=1)) == EVERYONE
    assert await make.cohort_claim(store, "none") is None


async def test_dead_letters_do_not_count(store: Store, make: Any) -> None:
    await make.leased(store, "ann", 1, ttl_s=1, now=make.T0)
    assert await make.claim(store, max_attempts=1, now=make.T0 + SECOND) is None
    assert [t.state for t in await store.traces.find()] == ["dead_letter"]
    assert await make.cohort_claim(store) is None


async def test_held_out_traces_do_not_count(store: Store, make: Any) -> None:
    await make.user(store, "ann", 10)
    await make.user(store, "bob", 2)
    for user, engagement in [("ann", "e8"), ("ann", "e9"), ("ann", "e0"), ("bob", "e1")]:
        await store.traces.add(make.trace(user, engagement))
    holdout = Holdout(0.2, 5, 3)
    assert await make.cohort_claim(store, holdout=holdout, min_traces=3) is None
    lease = await make.cohort_claim(store, holdout=holdout)
    assert [(t.user_id, t.engagement_id) for t in await store.traces.list_of_lease(lease.id)] == [
        ("ann", "e0"),
        ("bob", "e1"),
    ]
    assert lease.held_out == {"ann": ["e8", "e9"]}


async def test_user_who_moves_takes_all_traces_to_the_new_cohort(store: Store, make: Any) -> None:
    ids = await make.cohort(store, "everyone", "ann")
    await make.completed(store, await make.cohort_claim(store))
    assert await make.cohort_claim(store) is None
    await store.cohorts.put("cooks", "")
    await store.cohorts.add_members("cooks", ["ann"])
    lease = await make.cohort_claim(store, "cooks")
    assert lease.trace_ids == ids
    await make.completed(store, lease)
    await store.cohorts.remove_member("cooks", "ann")
    assert await make.cohort_claim(store) is None
    assert (await store.traces.get(ids[0])).versions == ["cohort/cooks@1", "cohort/everyone@1"]


async def test_of_claims_of_one_cohort_at_once_one_gets_it(store: Store, other: Store, make: Any) -> None:
    await make.cohort(store, "everyone", "ann", "bob")
    claims = [make.cohort_claim(s) for s in (store, other) * 3]
    assert sum(lease is not None for lease in await asyncio.gather(*claims)) == 1


async def test_a_users_and_a_cohorts_lease_do_not_touch_each_other(store: Store, other: Store, make: Any) -> None:
    ids = await make.cohort(store, "everyone", "ann", traces=2)
    mine, shared = await asyncio.gather(make.claim(store, adapter="user/ann"), make.cohort_claim(other))
    assert mine.trace_ids == shared.trace_ids == ids
    await asyncio.gather(make.completed(store, mine), make.completed(other, shared))
    for trace in await store.traces.find():
        assert (trace.state, trace.version, trace.versions) == ("trained", 1, ["cohort/everyone@1", "user/ann@1"])
    assert await make.claim(store, cohort_min_traces=1) is None


async def test_a_cohorts_lease_that_ran_out_is_tried_again_and_then_rests(store: Store, make: Any) -> None:
    ids, now = await make.cohort(store, "everyone", "ann"), make.T0
    for attempt in (1, 2):
        lease = await make.cohort_claim(store, ttl_s=1, max_attempts=2, now=now)
        assert (lease.attempt, lease.trace_ids) == (attempt, ids)
        now += SECOND
        with pytest.raises(LeaseLost, match="ran out"):
            await make.completed(store, lease, now=now)
    assert await make.cohort_claim(store, max_attempts=2, now=now) is None
    assert (await store.traces.get(ids[0])).state == "waiting"
    assert name(await make.cohort_claim(store, None, max_attempts=2, now=now)) == "user/ann"
    await make.waiting(store, "bob", 1)
    assert (await make.cohort_claim(store, max_attempts=2, now=now)).attempt == 1


async def test_what_is_refused_is_tried_again_with_the_same_traces(store: Store, make: Any) -> None:
    ids = await make.cohort(store, "everyone", "ann", "bob")
    for attempt in (1, 2):
        lease = await make.cohort_claim(store, max_attempts=2)
        assert (lease.attempt, lease.trace_ids) == (attempt, ids)
        refused = await make.refused(store, lease)
        assert await store.publication.refuse(lease.id, refused, max_attempts=2) == refused
    assert await make.cohort_claim(store, max_attempts=2) is None
    assert (await store.traces.get(ids[0])).versions == ["cohort/everyone@1", "cohort/everyone@2"]
    last = await make.cohort_claim(store, max_attempts=3)
    assert last.attempt == 3
    await make.completed(store, last)
    await make.waiting(store, "ann", 1)
    assert (await make.cohort_claim(store, max_attempts=2)).attempt == 1


async def test_a_completion_clears_the_record(store: Store, make: Any) -> None:
    await make.cohort(store, "everyone", "ann", traces=3)
    await make.refused(store, await make.cohort_claim(store))
    await make.completed(store, await make.cohort_claim(store, max_traces=1))
    assert (await make.cohort_claim(store)).attempt == 1


async def test_a_release_of_a_cohorts_lease_is_no_attempt(store: Store, make: Any) -> None:
    ids = await make.cohort(store, "everyone", "ann")
    lease = await make.cohort_claim(store)
    await store.leases.release(lease.id)
    again = await make.cohort_claim(store)
    assert (again.attempt, again.trace_ids) == (1, ids)


async def test_withdrawn_version_does_not_requeue_its_traces(store: Store, make: Any, check: Any) -> None:
    await make.cohort(store, "everyone", "ann")
    version = await make.completed(store, await make.cohort_claim(store))
    await store.live_versions.withdraw(EVERYONE, version.version, check)
    assert await make.cohort_claim(store) is None


async def test_training_starts_from_what_answers_for_the_user(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "ann")
    lease = await make.claim(store, adapter="user/ann")
    assert (lease.start, lease.parent) == (None, None)
    await store.leases.release(lease.id)

    await make.cohort(store, "everyone", "bob")
    await make.completed(store, await make.cohort_claim(store), "shared")
    lease = await make.claim(store, adapter="user/ann")
    assert lease.start.model_dump() == {"adapter": EVERYONE, "version": 1, "digest": "shared"}
    await store.leases.release(lease.id)

    await make.completed(store, await make.cohort_claim(store, "cooks"), "cooks")
    lease = await make.claim(store, adapter="user/ann")
    assert lease.start.model_dump() == {"adapter": "cohort/cooks", "version": 1, "digest": "cooks"}
    version = await make.completed(store, lease, "own")
    assert version.start == "cohort/cooks@1"

    await make.waiting(store, "ann", 1)
    starts = {"parent": "user/ann", "cohort": "cohort/cooks", "base": None}
    for start_from, adapter in starts.items():
        lease = await make.claim(store, adapter="user/ann", start_from=start_from)
        assert (lease.start and lease.start.adapter, lease.parent) == (adapter, 1)
        await store.leases.release(lease.id)


@pytest.mark.parametrize(("base_digest", "version"), [(None, 1), ("base", 1), ("another base", None)])
async def test_training_starts_from_versions_of_the_served_base_model_only(
    store: Store, make: Any, base_digest: str | None, version: int | None
) -> None:
    await make.trained(store)
    await make.waiting(store, "ann", 1)
    lease = await make.claim(store, adapter="user/ann", base_digest=base_digest)
    assert (lease.start and lease.start.version, lease.parent) == (version, 1)


@pytest.mark.parametrize(("start_from", "version"), [("parent", 1), ("cohort", 1), ("base", None)])
async def test_a_cohort_starts_from_its_own(store: Store, make: Any, start_from: str, version: int | None) -> None:
    await make.cohort(store, "everyone", "bob")
    await make.completed(store, await make.cohort_claim(store))
    await make.cohort(store, "cooks", "ann")
    first = await make.cohort_claim(store, "cooks", start_from=start_from)
    assert first.start is None
    await make.completed(store, first)
    await make.waiting(store, "ann", 1)
    lease = await make.cohort_claim(store, "cooks", start_from=start_from)
    assert (lease.start and lease.start.version, lease.parent) == (version, 1)


async def test_what_fast_samples_were_of_is_noted_while_the_lease_holds(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    await store.leases.record_samples(lease.id, {"ann": ["e0", "e1"]})
    await make.completed(store, lease)
    assert (await store.lineage.get("user/ann", 1)).fast == {"ann": ["e0", "e1"]}
    with pytest.raises(LeaseLost, match="completed"):
        await store.leases.record_samples(lease.id, {})


async def test_with_no_room_for_adapters_only_those_that_exist_are_claimed(store: Store, make: Any) -> None:
    await make.trained(store)
    await make.waiting(store, "bob", 3)
    assert await make.claim(store, may_add_adapters=False) is None
    assert await make.cohort_claim(store, None, may_add_adapters=False) is None
    lease = await make.claim(store)
    assert lease is not None
    assert lease.adapter == "user/bob"
    await store.leases.release(lease.id)
    await make.waiting(store, "ann", 1)
    lease = await make.claim(store, may_add_adapters=False)
    assert lease is not None
    assert lease.adapter == "user/ann"
