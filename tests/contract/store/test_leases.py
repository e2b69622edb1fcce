from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from mindprint.types import LoraLimits
from mindprint_server.store import LeaseLost, RecordNotFound, Store, lease_selection

SECOND = timedelta(seconds=1)


async def states(store: Store) -> list[str]:
    return [trace.state for trace in await store.traces.find()]


async def test_a_claim_takes_the_oldest_waiting_traces(store: Store, make: Any) -> None:
    ids = await make.waiting(store, "ann", 5)
    await store.traces.add(make.trace("ann", verdict="rejected"))
    lease = await make.claim(store, adapter="user/ann", owner="me", ttl_s=90, max_traces=3, now=make.T0)
    assert lease.trace_ids == ids[:3]
    assert (lease.adapter, lease.owner, lease.state, lease.attempt) == ("user/ann", "me", "active", 1)
    assert lease.deadline == make.T0 + 90 * SECOND
    assert (lease.parent, lease.version, lease.samples) == (None, None, [])
    assert (lease.base_digest, lease.limits) == ("", LoraLimits(max_rank=0, target_modules=[]))
    assert await store.leases.get(lease.id) == lease
    assert [t.id for t in await store.traces.list_of_lease(lease.id)] == ids[:3]
    assert await states(store) == ["leased"] * 3 + ["waiting"] * 2 + ["stored"]


async def test_a_claim_without_a_name_takes_the_neediest(store: Store, make: Any) -> None:
    for user, count in [("ann", 1), ("bob", 3), ("carl", 2), ("dora", 2)]:
        await make.waiting(store, user, count)
    claimed = [await make.claim(store) for _ in range(5)]
    assert [lease and lease.adapter for lease in claimed] == ["user/bob", "user/carl", "user/dora", "user/ann", None]


async def test_too_few_are_left_waiting(store: Store, make: Any) -> None:
    await make.waiting(store, "ann", 2)
    assert await make.claim(store, min_traces=3) is None
    assert await make.claim(store, min_traces=3, adapter="user/ann") is None
    assert await make.claim(store, adapter="user/bob") is None
    assert await states(store) == ["waiting", "waiting"]
    assert (await make.claim(store, min_traces=2)) is not None


async def test_one_lease_an_adapter(store: Store, make: Any) -> None:
    await make.leased(store, "ann")
    await make.waiting(store, "ann", 2)
    assert await make.claim(store) is None
    assert await make.claim(store, adapter="user/ann") is None


async def test_a_later_lease_starts_from_the_live_version(store: Store, make: Any) -> None:
    version = await make.trained(store)
    lease = await make.leased(store)
    assert lease.parent == version.version


async def test_trainers_that_claim_at_once_share_nothing(store: Store, other: Store, make: Any) -> None:
    for user in ("ann", "bob", "carl"):
        await make.waiting(store, user, 4)
    claims = [make.claim(s, owner=f"t{n}", max_traces=2) for n, s in enumerate((store, other) * 4)]
    leases = [lease for lease in await asyncio.gather(*claims) if lease]
    assert sorted(lease.adapter for lease in leases) == ["user/ann", "user/bob", "user/carl"]
    taken = [id for lease in leases for id in lease.trace_ids]
    assert len(set(taken)) == len(taken) == 6
    for lease in leases:
        assert [t.id for t in await store.traces.list_of_lease(lease.id)] == lease.trace_ids


async def test_of_trainers_that_want_one_adapter_one_gets_it(store: Store, other: Store, make: Any) -> None:
    for user in ("ann", "bob", "carl"):
        await make.waiting(store, user, 3)
        claims = [make.claim(s, adapter=f"user/{user}", max_traces=2) for s in (store, other) * 3]
        assert sum(lease is not None for lease in await asyncio.gather(*claims)) == 1
    assert (await states(store)).count("leased") == 6


async def test_a_heartbeat_extends(store: Store, make: Any) -> None:
    lease = await make.leased(store, ttl_s=60, now=make.T0)
    later = await store.leases.heartbeat(lease.id, 60, now=make.T0 + 59 * SECOND)
    assert later.deadline == make.T0 + 119 * SECOND
    assert await make.claim(store, now=make.T0 + 118 * SECOND) is None


async def test_heartbeat_after_the_deadline_saves_a_lease_that_no_claim_has_ended(store: Store, make: Any) -> None:
    lease = await make.leased(store, ttl_s=60, now=make.T0)
    late = await store.leases.heartbeat(lease.id, 60, now=make.T0 + 600 * SECOND)
    assert (late.state, late.deadline) == ("active", make.T0 + 660 * SECOND)
    assert (await store.leases.extend(lease.id, 60, now=make.T0 + 900 * SECOND)).state == "active"
    assert await make.claim(store, now=make.T0 + 901 * SECOND) is None
    assert (await make.claim(store, now=make.T0 + 960 * SECOND)).attempt == 2
    with pytest.raises(LeaseLost, match="expired"):
        await store.leases.heartbeat(lease.id, 60, now=make.T0 + 960 * SECOND)


async def test_an_expired_lease_is_claimable_with_one_more_attempt(store: Store, make: Any) -> None:
    first = await make.leased(store, ttl_s=60, now=make.T0)
    second = await make.claim(store, owner="other", now=make.T0 + 60 * SECOND)
    assert second.trace_ids == first.trace_ids
    assert second.attempt == 2
    assert (await store.leases.get(first.id)).state == "expired"
    assert await store.traces.list_of_lease(first.id) == []
    assert await store.leases.get(second.id) == second
    for call in (store.leases.heartbeat(first.id, 60, now=make.T0), store.leases.release(first.id, now=make.T0)):
        with pytest.raises(LeaseLost, match="expired"):
            await call


async def test_a_claim_of_one_adapter_ends_the_expired_leases_of_all(store: Store, make: Any) -> None:
    lease = await make.leased(store, "ann", now=make.T0)
    await make.waiting(store, "bob", 1)
    await make.claim(store, adapter="user/bob", now=make.T0 + 60 * SECOND)
    assert (await store.leases.get(lease.id)).state == "expired"
    assert await store.traces.count_waiting() == {"user/ann": 2}


async def test_after_the_last_attempt_traces_are_dead_letters_until_requeued(store: Store, make: Any) -> None:
    now = make.T0
    await make.waiting(store, "ann", 1)
    for attempt in (1, 2):
        lease = await make.claim(store, ttl_s=1, max_attempts=2, now=now)
        assert lease.attempt == attempt
        now += SECOND
    assert await make.claim(store, max_attempts=2, now=now) is None
    dead = await store.traces.find(state="dead_letter")
    assert [t.id for t in dead] == lease.trace_ids
    assert await store.traces.count_waiting() == {}

    waiting = await make.waiting(store, "bob", 1)
    assert await store.traces.requeue([t.id for t in dead] + waiting + ["none"]) == 1
    assert await store.traces.requeue([]) == 0
    assert await store.traces.requeue(user_id="ann") == await store.traces.requeue() == 0
    with pytest.raises(RecordNotFound):
        await store.traces.requeue(user_id="nobody")
    again = await make.claim(store, adapter="user/ann", max_attempts=2, now=now)
    assert again.trace_ids == lease.trace_ids
    assert again.attempt == 1


async def test_attempts_are_counted_a_trace(store: Store, make: Any) -> None:
    old = await make.waiting(store, "ann", 1)
    await make.claim(store, ttl_s=1, max_attempts=2, now=make.T0)
    new = await make.waiting(store, "ann", 1)
    lease = await make.claim(store, ttl_s=1, max_attempts=2, now=make.T0 + SECOND)
    assert (lease.trace_ids, lease.attempt) == (old + new, 2)
    last = await make.claim(store, max_attempts=2, now=make.T0 + 2 * SECOND)
    assert (last.trace_ids, last.attempt) == (new, 2)
    assert [t.id for t in await store.traces.find(state="dead_letter")] == old


async def test_a_release_is_no_attempt(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    released = await store.leases.release(lease.id)
    assert released.state == "released"
    assert await store.leases.release(lease.id) == released
    assert await states(store) == ["waiting", "waiting"]
    again = await make.claim(store)
    assert (again.trace_ids, again.attempt) == (lease.trace_ids, 1)
    with pytest.raises(LeaseLost, match="released"):
        await store.leases.heartbeat(lease.id, 60)


async def test_a_release_after_the_deadline_does_not_save_the_attempt(store: Store, make: Any) -> None:
    lease = await make.leased(store, ttl_s=60, now=make.T0)
    with pytest.raises(LeaseLost, match="ran out"):
        await store.leases.release(lease.id, now=make.T0 + 60 * SECOND)
    assert (await make.claim(store, now=make.T0 + 60 * SECOND)).attempt == 2


async def test_an_unknown_lease_is_not_found(store: Store) -> None:
    for call in (
        store.leases.get("x"),
        store.traces.list_of_lease("x"),
        store.leases.heartbeat("x", 60),
        store.leases.release("x"),
    ):
        with pytest.raises(RecordNotFound, match="lease 'x'"):
            await call


async def test_claim_is_bounded_by_the_bytes_of_its_traces(store: Store, make: Any) -> None:
    await make.user(store, "ann", 6)
    await store.engagements.add("ann", [make.engagement(7, choices=["yes", "é" * 500])])
    for n in (0, 1, 2, 7):
        await store.traces.add(make.trace("ann", f"e{n}", prompt="é" * 500))
    each = 2 * 500 + len("because") + len("yes") + lease_selection.SAMPLE_OVERHEAD_BYTES
    for adapter in ("user/ann", "cohort/everyone"):
        for most, count in ((1, 1), (2 * each - 1, 1), (2 * each, 2), (4 * each, 3), (4 * each + 1100, 4), (None, 4)):
            lease = await make.claim(store, adapter=adapter, max_trace_bytes=most, cohort_min_traces=1)
            assert len(lease.trace_ids) == count, (adapter, most)
            await store.leases.release(lease.id)
