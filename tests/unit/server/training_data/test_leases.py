"""What a lease brings, on the real store: whose samples, how many, and never a held-out engagement."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lease_desk import COUNTS, HELD, Desk, fill, held, of, rejection, sample_lead, trace
from mindprint.types import LeaseRequest, Sample
from mindprint_server.store import ClaimPolicy, Store
from mindprint_server.training_data import leases, samples
from samples import engagement


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
    assert {(s.kind, s.answer_only) for s in samples} == {("fast", False), ("slow", False), ("slow", True)}


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
    taught = {
        (s.engagement_id, s.trace_id in lease.trace_ids): ("" if s.answer_only else s.thinking, s.answer)
        for s in of("slow", lease)
    }
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
    assert after.answer_only
    assert after.prompt == "the memory of ann<think>\n"
    [real] = [e.response for e in await store.engagements.list_page("ann") if e.id == "e001"]
    assert (after.thinking_prefix, after.thinking, after.answer) == ("", "ann thinks", f" {real}")
    assert after.thinking_suffix == "\n</think>\nSo:"

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


@pytest.mark.parametrize(("grace_s", "state"), [(0, "expired"), (3600, "active")])
async def test_server_ends_no_late_lease_right_after_its_start(store: Store, grace_s: float, state: str) -> None:
    await fill(store, {"ann": 2, "ben": 2})
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    request, policy = LeaseRequest(owner="t", adapter="user/ann"), ClaimPolicy(max_attempts=3)
    late = await store.leases.claim(request, policy, now=an_hour_ago)
    assert late is not None
    await Desk(store, lease_grace_s=grace_s).claim("user/ben")
    assert (await store.leases.get(late.id)).state == state


async def test_bytes_of_samples_are_counted_outside_of_the_event_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    count = samples.sample_bytes

    def noted(sample: Sample) -> int:
        threads.add(threading.get_ident())
        return count(sample)

    for module in (leases, samples):
        monkeypatch.setattr(module, "sample_bytes", noted)
    await fill(store)
    await rejection(store, "e000", "wrong_answer")
    assert (await Desk(store).claim("user/ann")).samples
    assert threads
    assert threading.get_ident() not in threads
