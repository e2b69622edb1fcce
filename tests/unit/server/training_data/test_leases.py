"""What a lease brings, on the real store: whose samples, how many, and never a held-out engagement."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import prompt_builder
from mindprint.types import Lease, LeaseRequest, Provenance, Sample, Trace
from mindprint_server.context import ServerContext
from mindprint_server.memory import MemoryService
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import Replay, Store, leases, new_id
from mindprint_server.store.lease_selection import fitting
from mindprint_server.training_data.leases import LeaseService
from mindprint_server.training_data.replay import ReplayBuffer
from mindprint_server.training_data.samples import allocate_evenly, sample_bytes, take_fitting
from mindprint_server.wiring import create_holdout
from samples import engagement
from scripted import Scripted

COUNTS = {"ann": 30, "ben": 50, "cat": 10}
HELD = {"ann": {"e027", "e028", "e029"}, "ben": {f"e{n:03d}" for n in range(45, 50)}}
"""A tenth of each, the newest; `cat` has too few for that."""


class Written:
    """Replays that are there at once, after a wait, or not yet."""

    total = 48

    def __init__(self, there: int = 48, delay_s: float = 0.0) -> None:
        self.there = [Replay(n, f"general {n}", f"thought {n}", f"answer {n}") for n in range(there)]
        self.delay_s = delay_s
        self.begun = 0
        self.waited: list[float] = []

    def ensure_started(self) -> None:
        self.begun += 1

    async def get(self, wait_s: float) -> Sequence[Replay]:
        self.waited.append(wait_s)
        await asyncio.sleep(min(wait_s, self.delay_s))
        return self.there


class Desk:
    def __init__(self, store: Store, replays: Written | None = None, **settings: Any) -> None:
        chosen: dict[str, Any] = {"max_model_len": 4096, "replay_share": 0, "cohort_min_traces": 10}
        self.settings = Settings.model_validate(chosen | settings)
        self.store = store
        self.replays = replays or Written()
        self.metrics = Metrics()
        engine = Scripted()
        ctx = ServerContext(self.settings, store, engine, self.metrics)
        memory = MemoryService(ctx)
        prompts = prompt_builder(self.settings, engine)
        questions = QuestionBuilder(ctx, memory=memory)
        ready = cast(ReplayBuffer, self.replays)
        self.desk = LeaseService(
            ctx,
            prompts=prompts,
            questions=questions,
            memory=memory,
            replays=ready,
            holdout=create_holdout(self.settings),
        )

    async def claim(self, adapter: str, **request: Any) -> Lease:
        lease = await self.desk.claim(LeaseRequest(owner="t", adapter=adapter, **request))
        assert lease is not None
        return lease

    def missing(self) -> float:
        return self.metrics.registry.get_sample_value("mindprint_replays_missing_total") or 0.0


async def fill(store: Store, traces: Mapping[str, int] = COUNTS) -> None:
    """Histories in which every user says who they are, and accepted traces of the first engagements of each."""
    for user, count in COUNTS.items():
        await store.engagements.add(
            user,
            [engagement(n).model_copy(update={"reason": f"because {user} said so"}) for n in range(count)],
        )
    for user, count in traces.items():
        for n in range(count):
            await store.traces.add(trace(user, f"e{n:03d}"))


def trace(user: str, engagement_id: str) -> Trace:
    return Trace(
        id=new_id(),
        user_id=user,
        engagement_id=engagement_id,
        mode="personal",
        query="q",
        prompt=f"the memory of {user}",
        thinking=f"{user} thinks",
        answer="yes",
        verdict="accepted",
        state="waiting",
        provenance=Provenance(
            model="base",
            adapter_digest=None,
            base_digest="b",
            prompt_version="1",
            mode="personal",
            sampling={"answer_prefix": "So:"},
            seed=1,
            engine="fake",
        ),
        created_at=datetime.now(UTC),
    )


def of(kind: str, lease: Lease) -> list[Sample]:
    return [sample for sample in lease.samples if sample.kind == kind]


def held(lease: Lease) -> dict[str, set[str]]:
    return {user: set(ids) for user, ids in lease.held_out.items()}


async def test_users_lease_has_the_users_own_samples(store: Store) -> None:
    await fill(store)
    lease = await Desk(store).claim("user/ann")
    assert held(lease) == {"ann": HELD["ann"]}
    assert {sample.user_id for sample in lease.samples} == {"ann"}
    learned = {f"e{n:03d}" for n in range(27)}
    assert {sample.engagement_id for sample in of("slow", lease)} == learned
    assert {sample.engagement_id for sample in of("fast", lease)} == learned
    assert {sample.trace_id for sample in of("slow", lease)} == set(lease.trace_ids)
    sample = of("slow", lease)[0]
    assert sample.prompt == "the memory of ann<think>\n"
    assert (sample.thinking_prefix, sample.reminder) == ("", "")
    assert (sample.thinking, sample.thinking_suffix, sample.answer) == ("ann thinks", "\n</think>\nSo:", " yes")
    assert lease.base_digest == "unread"


async def test_a_sample_says_what_may_be_answered_as_its_answer_is_written(store: Store) -> None:
    await fill(store, {})
    await store.engagements.add("ann", [engagement(30).model_copy(update={"choices": None, "response": "my own"})])
    await rejection(store, "e000", "wrong_answer")
    for about in ("e000", "e001", "e030"):
        await store.traces.add(trace("ann", about))
    samples = (await Desk(store, holdout_share=0).claim("user/ann")).samples
    for sample in samples:
        open_ended = sample.engagement_id == "e030"
        assert sample.choices == ([] if open_ended else [sample_lead(sample) + choice for choice in ("yes", "no")])
        assert open_ended or not sample.answer or sample.answer in sample.choices
    assert {(s.kind, bool(s.thinking)) for s in samples} == {("fast", False), ("slow", True), ("slow", False)}


def sample_lead(sample: Sample) -> str:
    return "" if sample.kind == "fast" else " "


async def test_thinking_prefix_is_a_part_of_its_own_and_its_reminder_is_not(store: Store) -> None:
    await fill(store, {})
    desk = Desk(store, thinking_prefixes={"personal": "Shown:"})
    cases = ' asked "Tea?", this user answered "yes". So'
    for n, (thinking_prefix, rest) in enumerate(
        [("Shown:", " much"), (f"Shown:{cases}", ", yes"), ("Shown: all", " of it")]
    ):
        one = trace("cat", f"e{n:03d}")
        made = one.provenance.model_copy(
            update={"sampling": {"answer_prefix": "So:", "thinking_prefix": thinking_prefix}}
        )
        await store.traces.add(one.model_copy(update={"thinking": thinking_prefix + rest, "provenance": made}))
    parts = {
        s.engagement_id: (s.thinking_prefix, s.reminder, s.thinking) for s in of("slow", await desk.claim("user/cat"))
    }
    assert parts == {
        "e000": ("Shown:", "", " much"),
        "e001": ("Shown:", cases, ", yes"),
        "e002": ("Shown: all", "", " of it"),
    }


async def rejection(store: Store, engagement_id: str, reason: str) -> str:
    """A unhinted candidate of ann's that was rejected; its id."""
    no: dict[str, Any] = {"verdict": "rejected", "reason": reason, "state": "stored", "answer": "maybe"}
    one = trace("ann", engagement_id).model_copy(update=no)
    await store.traces.add(one)
    return one.id


async def test_the_answer_is_learned_after_the_first_thinking_and_not_after_a_picked_one(store: Store) -> None:
    await fill(store, {})
    bad = await rejection(store, "e000", "loop")
    first = await rejection(store, "e000", "wrong_answer")
    await rejection(store, "e000", "low_gain")
    await store.traces.add(trace("ann", "e000"))
    await store.traces.add(trace("ann", "e001"))
    await rejection(store, "e001", "wrong_answer")
    await rejection(store, "e002", "loop")
    hinted = trace("ann", "e002")
    saw = hinted.provenance.model_copy(update={"saw_answer": True})
    await store.traces.add(hinted.model_copy(update={"provenance": saw}))
    lease = await Desk(store).claim("user/ann")
    real = {e.id: f" {e.response}" for e in await store.engagements.list_page("ann")}
    taught = {(s.engagement_id, s.trace_id in lease.trace_ids): (s.thinking, s.answer) for s in of("slow", lease)}
    assert taught == {
        ("e000", False): ("", real["e000"]),
        ("e000", True): ("ann thinks", ""),
        ("e001", True): ("ann thinks", " yes"),
        ("e002", True): ("ann thinks", " yes"),
    }
    brought = {s.trace_id for s in lease.samples}
    assert first in brought
    assert bad not in brought
    assert all(s.thinking_suffix for s in of("slow", lease) if s.thinking), "how thinking ends is learned all the same"


async def test_of_two_accepted_siblings_one_teaches_the_answer(store: Store) -> None:
    await fill(store, {})
    for about, thinking in (("e000", "ann thinks"), ("e000", "ann thinks again"), ("e001", "ann thinks")):
        await store.traces.add(trace("ann", about).model_copy(update={"thinking": thinking}))
    taught = of("slow", await Desk(store).claim("user/ann"))
    assert [(sample.engagement_id, sample.thinking) for sample in taught] == [
        ("e000", "ann thinks"),
        ("e000", "ann thinks again"),
        ("e001", "ann thinks"),
    ]
    assert [sample.engagement_id for sample in taught if sample.answer] == ["e000", "e001"]
    first, brother = (sample for sample in taught if sample.engagement_id == "e000")
    assert str(first.trace_id) < str(brother.trace_id)
    assert first.answer
    assert not brother.answer


async def test_rejected_thinking_still_teaches_the_answer_after_it(store: Store) -> None:
    """Of engagements that got no accepted trace, the first unhinted one that only its answer or a score spoke
    against."""
    await fill(store, {"ann": 1})
    rejected = [
        ("e000", "wrong_answer", False),  # has an accepted one
        ("e001", "loop", False),
        ("e001", "wrong_answer", True),
        ("e001", "low_gain", False),
        ("e001", "wrong_answer", False),
        ("e002", "loop", False),
        ("e028", "low_anchor", False),  # held out
    ]
    ids = []
    for engagement_id, reason, hinted in rejected:
        one = trace("ann", engagement_id)
        changes = {"verdict": "rejected", "reason": reason, "state": "stored", "answer": "maybe"}
        made = one.provenance.model_copy(update={"saw_answer": hinted})
        await store.traces.add(one.model_copy(update={**changes, "provenance": made}))
        ids.append(one.id)
    of_adapter = trace("ann", "e003")
    made = of_adapter.provenance.model_copy(update={"model": "user/ann@1"})
    no: dict[str, Any] = {"verdict": "rejected", "reason": "wrong_answer", "state": "stored"}
    await store.traces.add(of_adapter.model_copy(update={**no, "provenance": made}))
    lease = await Desk(store).claim("user/ann")
    [after] = [sample for sample in of("slow", lease) if sample.trace_id not in lease.trace_ids]
    assert (after.engagement_id, after.trace_id) == ("e001", ids[3])
    assert after.prompt == "the memory of ann<think>\nann thinks\n</think>\nSo:"
    [real] = [e.response for e in await store.engagements.list_page("ann") if e.id == "e001"]
    assert (after.thinking_prefix, after.thinking, after.answer) == ("", "", f" {real}")

    await store.leases.release(lease.id)
    without = await Desk(store, answer_rejected=False).claim("user/ann")
    assert [sample.trace_id for sample in of("slow", without)] == without.trace_ids


async def test_a_user_with_a_short_history_learns_from_all_of_it(store: Store) -> None:
    await fill(store)
    lease = await Desk(store).claim("user/cat")
    assert lease.held_out == {}
    assert len(of("slow", lease)) == len(of("fast", lease)) == 10


@pytest.mark.parametrize("adapter", ["user/ann", "user/ben", "cohort/everyone"])
async def test_no_sample_is_of_a_held_out_engagement_or_shows_one(store: Store, adapter: str) -> None:
    await fill(store)
    lease = await Desk(store).claim(adapter)
    for sample in lease.samples:
        assert sample.user_id is not None
        out = HELD.get(sample.user_id, set())
        assert sample.engagement_id not in out
        assert not any(f"walk number {int(id[1:])}?" in sample.prompt for id in out)


async def test_no_sample_holds_another_users_words(store: Store) -> None:
    await fill(store)
    for adapter in ("user/ann", "cohort/everyone"):
        for sample in (await Desk(store).claim(adapter)).samples:
            others = set(COUNTS) - {sample.user_id}
            text = sample.prompt + sample.thinking + sample.answer
            assert not any(other in text for other in others)


async def test_cohorts_lease_has_the_samples_of_all_its_users(store: Store) -> None:
    await fill(store, {"ann": 30, "ben": 50})
    lease = await Desk(store).claim("cohort/everyone")
    assert held(lease) == HELD
    slow, fast = (Counter(sample.user_id for sample in of(kind, lease)) for kind in ("slow", "fast"))
    assert slow == {"ann": 27, "ben": 45}
    assert fast == {"ann": 27, "ben": 45}, "only of those whose traces it learns from"


async def test_fast_samples_are_bounded_in_all_and_spread_over_the_users(store: Store) -> None:
    await fill(store)
    lease = await Desk(store, max_fast_samples=40).claim("cohort/everyone")
    fast = of("fast", lease)
    assert Counter(sample.user_id for sample in fast) == {"ann": 15, "ben": 15, "cat": 10}
    assert {s.engagement_id for s in fast if s.user_id == "ann"} == {f"e{n:03d}" for n in range(12, 27)}, "the newest"


async def test_what_is_learned_beside_the_traces_is_noted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(store, {"ann": 1})
    rejected = {"verdict": "rejected", "reason": "low_gain", "state": "stored"}
    too_old, young = (trace("ann", id).model_copy(update=rejected) for id in ("e005", "e026"))
    for one in (too_old, young):
        await store.traces.add(one)
    noted: list[tuple[Any, ...]] = []
    note = store.leases.record_samples

    async def heard(*all_of_it: Any) -> None:
        noted.append(all_of_it)
        await note(*all_of_it)

    monkeypatch.setattr(store.leases, "record_samples", heard)
    lease = await Desk(store, max_fast_samples=4).claim("user/ann")
    assert noted == [(lease.id, {"ann": ["e023", "e024", "e025", "e026"]}, {"ann": [young.id]})]
    assert {sample.trace_id for sample in of("slow", lease)} == {*lease.trace_ids, young.id}


async def test_engagements_too_long_for_the_model_are_no_fast_samples(store: Store) -> None:
    await fill(store)
    long = engagement(5).model_copy(update={"id": "long", "prompt": "word " * 5000})
    await store.engagements.add("cat", [long])
    lease = await Desk(store).claim("user/cat")
    assert "long" not in {sample.engagement_id for sample in of("fast", lease)}


async def test_nothing_to_claim(store: Store) -> None:
    desk = Desk(store)
    assert await desk.desk.claim(LeaseRequest(owner="t")) is None
    assert desk.replays.begun == 1, "a trainer that asks has the replays written"
    assert desk.replays.waited == []


# --- replay ---


def leased(adapter: str, *trace_ids: str) -> Lease:
    lease: Lease = cast(Any, Lease).model_construct(adapter=adapter, trace_ids=list(trace_ids))
    return lease


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


async def _trained(store: Store, lease: Lease) -> None:
    """Take the traces of a lease out of the queue, as a publication does."""

    async def mark(db: Any) -> None:
        await leases.mark_trained(db, lease.id, 1)
        await leases.end(db, lease.id, "completed", 1)

    await store._database.write(mark)


SIZED = st.lists(st.tuples(st.sampled_from(["ann", "ben"]), st.integers(0, 50)), max_size=30)


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
