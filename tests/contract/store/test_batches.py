from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExecuteStyle

from mindprint.types import BatchRequest, Funnel
from mindprint_server.store import IdempotencyConflict, QueueFull, RecordNotFound, Store, StoreFailed
from mindprint_server.store.batches import DroppedResult, ItemResult, assemble

PLAN = [("ann", "e2"), ("ann", "e0"), ("bob", "e1"), ("bob", "e0")]


@pytest_asyncio.fixture(loop_scope="session")
async def planned(store: Store, make: Any) -> str:
    """A batch with the items of PLAN; its id."""
    await make.user(store, "ann")
    await make.user(store, "bob")
    batch, created = await store.batches.add(BatchRequest(mode="generic", seed=3), PLAN, max_open=1)
    assert created
    return batch.id


async def test_a_new_batch_has_all_to_do(store: Store, make: Any, planned: str) -> None:
    batch = await store.batches.get(planned)
    assert (batch.state, batch.items, batch.done, batch.funnel) == ("queued", 4, 0, Funnel())
    assert batch.request == BatchRequest(mode="generic", seed=3)
    assert await make.pending(store, planned) == PLAN
    assert await store.batches.list_newest() == [batch]
    assert await store.batches.list_open() == [("default", batch.id)]


async def test_an_item_is_done_once(store: Store, other: Store, make: Any, planned: str) -> None:
    traces = [make.trace("ann", "e2", "rejected", reason="loop"), make.trace("ann", "e2")]
    again = [make.trace("ann", "e2")]
    await make.finish(store, planned, "ann", "e2", traces=traces, outcome="accepted", seconds=2.0)
    for later in (store, other):
        await make.finish(later, planned, "ann", "e2", traces=again, outcome="rejected")
    batch = await store.batches.get(planned)
    assert [t.id for t in await store.traces.find(batch=planned)] == [t.id for t in traces]
    assert (batch.done, batch.generated_tokens, batch.prompt_tokens, batch.cached_tokens) == (1, 20, 60, 40)
    assert batch.tokens_per_second == 10.0
    assert await make.pending(store, planned) == PLAN[1:]


async def test_of_two_runners_that_finish_an_item_at_once_one_counts(
    store: Store, other: Store, make: Any, planned: str
) -> None:
    calls = [
        make.finish(s, planned, "ann", "e2", traces=[make.trace("ann", "e2")], outcome="accepted")
        for s in (store, other)
    ]
    await asyncio.gather(*calls)
    assert len(await store.traces.find()) == 1
    assert (await store.batches.get(planned)).generated_tokens == 10


async def test_items_finished_at_once_all_count(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 24)
    plan = [("ann", f"e{n}") for n in range(24)]
    batch, _ = await store.batches.add(BatchRequest(), plan, max_open=1)
    await asyncio.gather(
        *(
            make.finish((store, other)[n % 2], batch.id, user, id, traces=[make.trace(user, id)], outcome="accepted")
            for n, (user, id) in enumerate(plan)
        )
    )
    batch = await store.batches.get(batch.id)
    assert (batch.done, batch.generated_tokens, batch.funnel.generated) == (24, 240, 24)


async def test_an_item_that_fails_to_store_stays_pending(store: Store, make: Any, planned: str) -> None:
    twin = make.trace("ann", "e2")
    with pytest.raises(StoreFailed, match=r"SQLITE_CONSTRAINT|SQLSTATE 23505"):
        await make.finish(store, planned, "ann", "e2", traces=[twin, twin], outcome="accepted")
    assert await make.pending(store, planned) == PLAN
    assert await store.traces.find() == []


async def test_the_funnel_follows_the_traces(store: Store, make: Any, planned: str) -> None:
    rejected = [make.trace("ann", "e2", "rejected", reason=reason) for reason in ("loop", "loop", "wrong")]
    await make.finish(store, planned, "ann", "e2", traces=[*rejected, make.trace("ann", "e2")], outcome="accepted")
    await make.finish(
        store, planned, "ann", "e0", traces=[make.trace("ann", "e0", "rejected", reason="loop")], outcome="rejected"
    )
    await make.finish(store, planned, "bob", "e1", traces=[], outcome="no_history")
    batch = await store.batches.get(planned)
    assert (batch.items, batch.done, batch.skipped) == (4, 3, {"no_history": 1})
    assert batch.funnel == Funnel(attempted=2, generated=5, rejected={"loop": 3, "wrong": 1}, accepted=1)

    lease = await make.claim(store)
    await store.publication.publish(
        lease.id, make.version(lease, (await store.versions.allocate(lease.adapter)).version)
    )
    funnel = (await store.batches.get(planned)).funnel
    assert (funnel.accepted, funnel.trained, funnel.live) == (1, 1, 1)
    await store.live_versions.set_live(lease.adapter, None)
    assert (await store.batches.get(planned)).funnel.live == 0


async def test_items_are_committed_together(store: Store, make: Any, planned: str) -> None:
    cut = make.trace("ann", "e0", "rejected", reason="loop")
    cut.provenance.memory_dropped = 2
    hinted = make.trace("bob", "e1")
    hinted.provenance.saw_answer = True
    items = [
        ItemResult(planned, "ann", "e2", "accepted", [make.trace("ann", "e2")]),
        ItemResult(planned, "ann", "e0", "rejected", [cut, cut.model_copy(update={"id": "another"})]),
        ItemResult(planned, "bob", "e1", "accepted", [hinted]),
        ItemResult(planned, "bob", "e0", "no_history"),
    ]
    assert await store.batches.finish_items(items, {planned: 4.0}) == []
    batch = await store.batches.get(planned)
    assert (batch.done, batch.generated_tokens, batch.tokens_per_second) == (4, 40, 10.0)
    assert (batch.truncated, batch.hinted, batch.skipped) == (1, 1, {"no_history": 1})


async def test_an_item_that_is_gone_takes_nobody_with_it(store: Store, make: Any, planned: str) -> None:
    gone = ItemResult(planned, "ann", "e1", "accepted", [make.trace("ann", "e1")])
    there = ItemResult(planned, "ann", "e2", "accepted", [make.trace("ann", "e2")])
    assert await store.batches.finish_items([gone, there], {}) == [DroppedResult(gone, "gone")]
    assert [trace.engagement_id for trace in await store.traces.find()] == ["e2"]


async def test_states_only_move_forward(store: Store, planned: str) -> None:
    await store.batch_claims.claim(planned, "a", limit=1, ttl_s=60)
    running = await store.batches.get(planned)
    assert running.state == "running"
    assert running.started_at is not None
    await store.batch_claims.claim(planned, "a", limit=1, ttl_s=60)
    assert await store.batches.get(planned) == running
    cancelled = await store.batches.cancel(planned)
    assert cancelled.state == "cancelled"
    assert cancelled.finished_at is not None
    await store.batches.finish(planned, "done")
    await store.batch_claims.claim(planned, "a", limit=1, ttl_s=60)
    assert await store.batches.cancel(planned) == await store.batches.get(planned) == cancelled
    assert await store.batches.list_open() == []


async def test_a_batch_can_fail_with_a_reason(store: Store, planned: str) -> None:
    await store.batches.finish(planned, "failed", "the engine died")
    batch = await store.batches.get(planned)
    assert (batch.state, batch.error) == ("failed", "the engine died")


async def test_same_idempotency_key_returns_the_same_batch(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann")
    request = BatchRequest(idempotency_key="k")
    results = await asyncio.gather(*(s.batches.add(request, PLAN[:2], max_open=1) for s in (store, other) * 2))
    assert sorted(created for _, created in results) == [False, False, False, True]
    assert len({batch.id for batch, _ in results}) == 1
    with pytest.raises(IdempotencyConflict, match="'k'"):
        await store.batches.add(BatchRequest(idempotency_key="k", seed=1), PLAN[:2], max_open=9)


async def test_the_queue_has_a_bound(store: Store, other: Store) -> None:
    results = await asyncio.gather(
        *(s.batches.add(BatchRequest(), [], max_open=2) for s in (store, other) * 3), return_exceptions=True
    )
    assert sum(isinstance(r, QueueFull) for r in results) == 4
    (_, first), (_, second) = await store.batches.list_open()
    await store.batches.finish(first, "done")
    third, _ = await store.batches.add(BatchRequest(), [], max_open=2)
    assert [b.id for b in await store.batches.list_newest(2)] == [third.id, second]
    assert [id for _, id in await store.batches.list_open()] == [second, third.id]


async def test_an_item_planned_twice_is_one_item(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    batch, _ = await store.batches.add(BatchRequest(), [("ann", "e1"), ("ann", "e0"), ("ann", "e1")], max_open=1)
    assert await make.pending(store, batch.id) == [("ann", "e1"), ("ann", "e0")]


async def test_busy_seconds_add_up_over_restarts(store: Store, make: Any, planned: str) -> None:
    assert (await store.batches.get(planned)).tokens_per_second == 0
    await make.finish(store, planned, "ann", "e2", traces=[make.trace("ann", "e2")], outcome="accepted")
    await store.batches.finish_items([], {planned: 1.5})
    await store.batches.finish_items([], {planned: 2.5})
    assert (await store.batches.get(planned)).tokens_per_second == 2.5


async def test_an_unknown_batch_is_not_found(store: Store) -> None:
    for call in (
        store.batches.get("none"),
        store.batches.finish("none", "done"),
        store.batches.cancel("none"),
    ):
        with pytest.raises(RecordNotFound, match="batch 'none'"):
            await call


def test_assembles_counts(make: Any) -> None:
    row = {
        "id": "b",
        "state": "running",
        "request": {},
        "generated_tokens": 30,
        "prompt_tokens": 1,
        "cached_tokens": 1,
        "busy_seconds": 1.5,
        "error": None,
        "created_at": make.T0,
        "started_at": None,
        "finished_at": None,
    }
    batch = assemble(row, {None: 4, "accepted": 3, "rejected": 2, "no_history": 1, "full": 1}, Funnel(generated=9))
    assert (batch.items, batch.done, batch.skipped) == (11, 7, {"no_history": 1, "full": 1})
    assert batch.funnel == Funnel(attempted=5, generated=9)
    assert batch.tokens_per_second == 20


async def test_items_that_are_open_in_another_batch_are_skipped(store: Store, make: Any, planned: str) -> None:
    await make.finish(store, planned, "ann", "e2", traces=[], outcome="rejected")
    again, created = await store.batches.add(BatchRequest(mode="generic"), [*PLAN, ("bob", "e2")], max_open=9)
    assert created
    assert (again.items, again.done, again.skipped) == (5, 3, {"in_other_batch": 3})
    assert again.funnel.attempted == 0
    assert await make.pending(store, again.id) == [("ann", "e2"), ("bob", "e2")]
    other_mode, _ = await store.batches.add(BatchRequest(mode="personal"), PLAN, max_open=9)
    assert other_mode.skipped == {}, "another mode writes other traces"
    await store.batches.cancel(planned)
    later, _ = await store.batches.add(BatchRequest(mode="generic"), PLAN, max_open=9)
    assert later.skipped == {"in_other_batch": 1}, "a batch that has ended holds nothing"


async def test_of_batches_that_are_planned_at_once_one_has_each_item(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 20)
    items = [("ann", f"e{n}") for n in range(20)]
    made = await asyncio.gather(
        *(at.batches.add(BatchRequest(seed=seed), items, max_open=9) for seed, at in enumerate((store, other) * 2))
    )
    pending = [item for batch, _ in made for item in await make.pending(store, batch.id)]
    assert sorted(pending) == sorted(items)


async def test_accepted_thinking_of_an_engagement_is_stored_once(store: Store, other: Store, make: Any) -> None:
    """Two servers accept the same text for one engagement at the same moment."""
    await make.user(store, "ann", 8)
    batches = []
    for mode, at in (("personal", store), ("generic", other)):
        batch, _ = await at.batches.add(BatchRequest(mode=mode), [("ann", f"e{n}") for n in range(8)], max_open=9)
        batches.append((at, batch.id))
    await asyncio.gather(
        *(
            make.finish(at, id, "ann", f"e{n}", traces=[make.trace("ann", f"e{n}")], outcome="accepted")
            for n in range(8)
            for at, id in batches
        )
    )
    traces = await store.traces.find(user="ann")
    assert len(traces) == 16
    accepted = [trace.engagement_id for trace in traces if trace.verdict == "accepted"]
    assert sorted(accepted, key=str) == [f"e{n}" for n in range(8)]
    assert {(trace.reason, trace.state) for trace in traces if trace.verdict != "accepted"} == {("duplicate", "stored")}
    funnels = [(await store.batches.get(id)).funnel for _, id in batches]
    assert sum(funnel.accepted for funnel in funnels) == 8
    assert sum(funnel.rejected.get("duplicate", 0) for funnel in funnels) == 8


async def test_repeated_trace_of_one_item_is_rejected_and_other_texts_are_not(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    first = await store.traces.add(make.trace("ann", "e1"))
    assert (await store.traces.add(make.trace("ann", "e1"))).reason == "duplicate"
    batch, _ = await store.batches.add(BatchRequest(), [("ann", "e1"), ("ann", "e2")], max_open=9)
    twice = [make.trace("ann", "e1"), make.trace("ann", "e1", thinking="another")]
    await make.finish(store, batch.id, "ann", "e1", traces=twice, outcome="accepted")
    await make.finish(store, batch.id, "ann", "e2", traces=[make.trace("ann", "e2")], outcome="accepted")
    kept = [trace for trace in await store.traces.find(user="ann") if trace.verdict == "accepted"]
    assert [(trace.engagement_id, trace.thinking) for trace in kept] == [
        ("e1", first.thinking),
        ("e1", "another"),
        ("e2", "because"),
    ]
    assert (await store.batches.get(batch.id)).funnel.accepted == 2


@pytest.mark.parametrize("users", [1, 8])
async def test_results_of_a_group_take_few_statements(store: Store, make: Any, users: int) -> None:
    names = [f"u{n}" for n in range(users)]
    for name in names:
        await make.user(store, name, 32 // users)
    items = [(name, f"e{n}") for name in names for n in range(32 // users)]
    batch, _ = await store.batches.add(BatchRequest(), items, max_open=1)
    done = []
    for place, (name, engagement) in enumerate(items):
        verdicts = ("rejected", "rejected", "accepted") if place % 2 else ("rejected",) * 3
        written = [make.trace(name, engagement, verdict, thinking=f"because {n}") for n, verdict in enumerate(verdicts)]
        done.append(ItemResult(batch.id, name, engagement, verdicts[-1], written))
    count = 0

    def note(_connection: Any, _cursor: Any, _sql: str, parameters: Any, context: Any, _executemany: bool) -> None:
        nonlocal count
        count += len(parameters) if context.execute_style is ExecuteStyle.EXECUTEMANY else 1

    engine = store._database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        assert await store.batches.finish_items(done, {batch.id: 1.0}) == []
    finally:
        event.remove(engine, "before_cursor_execute", note)
    candidates = sum(len(item.traces) for item in done)
    assert count / candidates <= 0.2
    ended = await store.batches.get(batch.id)
    assert (ended.state, ended.funnel.generated, ended.funnel.accepted) == ("done", candidates, 16)


async def test_an_item_that_comes_twice_in_a_group_is_stored_once(store: Store, make: Any) -> None:
    await make.user(store, "ann", 2)
    batch, _ = await store.batches.add(BatchRequest(), [("ann", "e0"), ("ann", "e1")], max_open=1)
    first = ItemResult(batch.id, "ann", "e0", "accepted", [make.trace("ann", "e0", thinking="first")])
    second = ItemResult(batch.id, "ann", "e0", "rejected", [make.trace("ann", "e0", thinking="second")])
    assert await store.batches.finish_items([first, second], {}) == []
    assert [trace.thinking for trace in await store.traces.find()] == ["first"]
    assert await make.pending(store, batch.id) == [("ann", "e1")]
