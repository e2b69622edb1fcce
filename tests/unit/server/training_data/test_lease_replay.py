"""Leases: replay samples, and how samples are spread over users."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lease_desk import SIZED, Desk, Written, _trained, fill, leased, of, rejection, trace
from mindprint.types import LeaseRequest, Sample
from mindprint_server.store import Store
from mindprint_server.store.lease_selection import fitting
from mindprint_server.training_data.samples import allocate_evenly, sample_bytes, take_fitting

# --- replay ---


async def test_a_share_of_replays_is_added(store: Store) -> None:
    await fill(store)
    desk = Desk(store, replay_share=0.1)
    lease = await desk.claim("user/cat")
    replays = of("replay", lease)
    assert len(replays) == 2, "a tenth of 10 slow and 10 fast samples"
    assert desk.missing() == 0
    sample = replays[0]
    assert sample.user_id is None
    n = int(sample.engagement_id.removeprefix("replay/"))
    assert sample.prompt == f"general {n}<think>\n"
    assert (sample.thinking, sample.thinking_suffix) == (f"thought {n}", "\n</think>\nThis user's answer:")
    assert sample.answer == f" answer {n}"


async def test_next_lease_of_the_same_traces_has_the_same_samples(store: Store) -> None:
    """Or a training that was killed would not find its checkpoint."""
    await fill(store)
    desk = Desk(store, replay_share=0.5)
    first = await desk.claim("user/cat")
    await store.leases.release(first.id)
    again = await desk.claim("user/cat")
    assert again.id != first.id
    assert again.samples == first.samples
    other = of("replay", await desk.claim("user/ann"))
    assert {s.engagement_id for s in other} != {s.engagement_id for s in of("replay", first)}


async def test_which_replays_is_decided_by_adapter_and_traces(store: Store) -> None:
    desk = Desk(store, replay_share=1)
    leases = [leased("user/ann", *ids) for ids in (("t1", "t2"), ("t2", "t1"), ("t1", "t3"))]
    one, again, other = [await desk.desk._replay_samples(lease, 12, 0) for lease in leases]
    assert one == again != other
    assert len({sample.engagement_id for sample in one}) == 12


async def test_a_claim_goes_on_with_fewer_replays_and_counts_them(store: Store) -> None:
    await fill(store)
    desk = Desk(store, Written(there=1, delay_s=60), replay_share=0.5, replay_wait_s=0.01)
    async with asyncio.timeout(10):
        lease = await desk.claim("user/cat")
    assert len(of("replay", lease)) == 1
    assert desk.missing() == 9


async def test_more_than_there_can_be_are_not_missed(store: Store) -> None:
    desk = Desk(store, replay_share=1)
    assert len(await desk.desk._replay_samples(leased("user/ann", "t1"), 1000, 0)) == 48
    assert desk.missing() == 0


async def test_the_wait_for_replays_leaves_the_lease_its_time(store: Store) -> None:
    await fill(store)
    desk = Desk(store, replay_share=0.1)
    await desk.claim("user/cat", ttl_s=2)
    await desk.claim("user/ann", ttl_s=600)
    assert desk.replays.waited == [0.5, 10]


# --- spreading ---


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=8), st.integers(0, 120))
def test_spreading_takes_all_that_it_may_as_evenly_as_can_be(there: dict[str, int], total: int) -> None:
    taken = allocate_evenly(there, total)
    assert taken.keys() == there.keys()
    assert all(0 <= taken[key] <= there[key] for key in there)
    assert sum(taken.values()) == min(total, sum(there.values()))
    most = max(taken.values(), default=0)
    assert all(taken[key] == there[key] or taken[key] >= most - 1 for key in there)


@pytest.mark.parametrize("most", [1024, 6_000, 20_000, 60_000])
@pytest.mark.parametrize("adapter", ["user/ann", "cohort/everyone"])
async def test_samples_of_a_lease_are_bounded_in_bytes(store: Store, adapter: str, most: int) -> None:
    await fill(store, {})
    for user in ("ann", "ben"):
        for n in range(20):
            long = trace(user, f"e{n:03d}").model_copy(update={"prompt": "é" * 500, "thinking": f"{user} {n}"})
            await store.traces.add(long)
    await rejection(store, "e021", "wrong_answer")
    desk = Desk(store, max_lease_bytes=most, cohort_min_traces=1, replay_share=0.5)
    lease = await desk.claim(adapter)
    size = sum(map(sample_bytes, lease.samples))
    assert size <= max(most, 2_000), "a single trace is taken in any case"
    taken = len(lease.trace_ids)
    all_there_are = 20 if adapter == "user/ann" else 40
    assert 1 <= taken < all_there_are or size < most
    oldest = [one.id for one in await store.traces.find() if one.verdict == "accepted"]
    assert lease.trace_ids == oldest[:taken]
    await store.leases.release(lease.id)
    assert (await desk.claim(adapter)).samples == lease.samples, "so that a checkpoint still fits"


async def test_traces_that_do_not_fit_wait_for_the_next_lease(store: Store) -> None:
    await fill(store, {"ann": 12})
    seen: list[str] = []
    desk = Desk(store, max_lease_bytes=4_000)
    for _ in range(12):
        lease = await desk.desk.claim(LeaseRequest(owner="t", adapter="user/ann"))
        if lease is None:
            break
        seen += lease.trace_ids
        assert len(lease.trace_ids) < 12
        await _trained(store, lease)
    assert seen == [one.id for one in await store.traces.find(user="ann")]


@given(sizes=SIZED, most=st.integers(0, 600))
def test_what_fits_is_taken_evenly_and_in_order(sizes: list[tuple[str, int]], most: int) -> None:
    samples = [
        Sample(kind="fast", user_id=user, engagement_id=str(n), prompt="x" * size, answer="")
        for n, (user, size) in enumerate(sizes)
    ]
    kept = take_fitting(samples, most)
    assert sum(map(sample_bytes, kept)) <= most
    positions = [samples.index(sample) for sample in kept]
    assert positions == sorted(positions)
    left_out = [sample for sample in samples if sample not in kept]
    space = most - sum(map(sample_bytes, kept))
    assert all(sample_bytes(sample) > space for sample in left_out), "nothing that fits is left out"


@given(sizes=st.lists(st.integers(0, 100), max_size=20), most=st.none() | st.integers(0, 500))
def test_first_traces_that_fit_are_chosen(sizes: list[int], most: int | None) -> None:
    count = fitting(sizes, most)
    assert count == len(sizes) if most is None else (count <= 1 or sum(sizes[:count]) <= most)
    if most is not None and count < len(sizes):
        assert count >= 1
        assert sum(sizes[: count + 1]) > most
