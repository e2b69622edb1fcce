from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, event

from mindprint_server.store import RecordNotFound, Store, StoreFailed


async def test_a_trace_comes_back_as_it_was(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    trace = make.trace("ann", choice_logprobs={"yes": -0.1, "no": -2.4}, scores={"gain": 0.5}, reason=None)
    assert await store.traces.add(trace) == trace
    assert await store.traces.get(trace.id) == trace
    with pytest.raises(RecordNotFound, match="trace 'none'"):
        await store.traces.get("none")


async def test_a_trace_needs_its_user_and_its_engagement(store: Store, make: Any) -> None:
    with pytest.raises(RecordNotFound, match="user 'ann'"):
        await store.traces.add(make.trace("ann"))
    await make.user(store, "ann")
    with pytest.raises(RecordNotFound, match="engagement 'e99'"):
        await store.traces.add(make.trace("ann", "e99"))
    assert await store.traces.find() == []


async def test_what_a_model_may_emit_can_be_stored(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    trace = await store.traces.add(make.trace("ann", thinking="a\0b", choice_logprobs={"\0": -1.0}))
    assert trace.thinking == "a\N{REPLACEMENT CHARACTER}b"
    assert trace.choice_logprobs == {"\0": -1.0}


async def test_numbers_that_json_lacks_are_refused_everywhere(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    with pytest.raises(ValueError, match="not JSON compliant") as caught:
        await store.traces.add(make.trace("ann", scores={"gain": float("-inf")}, thinking="a secret"))
    assert "a secret" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"verdict": "rejected", "state": "waiting"}, {"state": "trained"}, {"version": 1}, {"state": "leased"}]
)
async def test_the_database_itself_refuses_an_impossible_state(store: Store, make: Any, wrong: dict[str, Any]) -> None:
    await make.user(store, "ann")
    with pytest.raises(StoreFailed):
        await store.traces.add(make.trace("ann", **wrong))


async def test_traces_are_found_by_what_they_are_of(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    await make.user(store, "bob")
    a = await store.traces.add(make.trace("ann", "e0"))
    b = await store.traces.add(make.trace("ann", "e1", "rejected", reason="loop"))
    c = await store.traces.add(make.trace("bob", "e1"))
    d = await store.traces.add(make.trace("bob", None, "unjudged"))
    assert await store.traces.find() == [a, b, c, d]
    assert await store.traces.find(user="ann") == [a, b]
    assert await store.traces.find(user="bob", engagement="e1") == [c]
    assert await store.traces.find(verdict="accepted") == [a, c]
    assert await store.traces.find(state="stored") == [b, d]
    assert await store.traces.find(limit=2) == [a, b]
    assert await store.traces.find(after=b.id, limit=1) == [c]
    assert await store.traces.find(batch="none") == []


async def test_traces_of_one_engagement_by_mode(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    await make.user(store, "bob")
    personal = await store.traces.add(make.trace("ann", "e1"))
    generic = await store.traces.add(make.trace("ann", "e1", "unjudged", mode="generic"))
    await store.traces.add(make.trace("ann", "e0", "unjudged", mode="generic"))
    await store.traces.add(make.trace("bob", "e1", "unjudged", mode="generic"))
    assert await store.traces.find(user="ann", engagement="e1") == [personal, generic]
    assert await store.traces.find(user="ann", engagement="e1", mode="generic") == [generic]
    assert await store.traces.find(user="ann", engagement="e1", mode="direct") == []
    assert await store.traces.find(mode="personal") == [personal]


async def test_untraced_are_those_without_an_accepted_trace(store: Store, make: Any) -> None:
    for user in ("bob", "ann"):
        await store.engagements.add(user, [make.engagement(n) for n in (2, 0, 1)])
    await store.traces.add(make.trace("ann", "e1"))
    await store.traces.add(make.trace("ann", "e1"))
    await store.traces.add(make.trace("bob", "e0", "rejected"))
    bobs = [("bob", "e0"), ("bob", "e1"), ("bob", "e2")]
    assert await store.traces.list_untraced(None) == [("ann", "e0"), ("ann", "e2"), *bobs]
    assert await store.traces.list_untraced(["bob"]) == bobs
    assert await store.traces.list_untraced([]) == []
    with pytest.raises(RecordNotFound, match="user 'carl'"):
        await store.traces.list_untraced(["ann", "carl"])


async def test_accepted_texts_are_of_one_user_and_accepted(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    await make.user(store, "bob")
    for user, verdict, thinking in [("ann", "accepted", "x"), ("ann", "rejected", "y"), ("bob", "accepted", "z")]:
        await store.traces.add(make.trace(user, verdict=verdict, thinking=thinking))
    assert await store.traces.list_accepted_texts("ann") == {"x"}
    assert await store.traces.list_accepted_texts("nobody") == set()


async def test_the_backlog_counts_what_waits(store: Store, make: Any) -> None:
    assert await store.traces.count_waiting() == {}
    await make.leased(store, "ann", 2)
    await make.waiting(store, "ann", 1)
    await make.waiting(store, "bob", 3)
    await store.traces.add(make.trace("bob", verdict="rejected"))
    assert await store.traces.count_waiting() == {"user/ann": 1, "user/bob": 3}


async def test_the_first_rejected_trace_of_each_engagement_that_has_no_accepted_one(store: Store, make: Any) -> None:
    await make.user(store, "ann", 4)
    made = make.trace("ann", "e0").provenance
    hinted = made.model_copy(update={"saw_answer": True})
    of_adapter = made.model_copy(update={"model": "user/ann@1"})
    no = {"verdict": "rejected", "reason": "low_gain", "state": "stored"}
    await store.traces.add(make.trace("ann", "e0"))
    await store.traces.add(make.trace("ann", "e0", **no))
    await store.traces.add(make.trace("ann", "e1", **no | {"reason": "loop"}))
    await store.traces.add(make.trace("ann", "e1", **no, provenance=hinted))
    await store.traces.add(make.trace("ann", "e2", **no, provenance=of_adapter))
    first = await store.traces.add(make.trace("ann", "e3", **no))
    await store.traces.add(make.trace("ann", "e3", **no))
    assert [trace.id for trace in await store.traces.list_first_rejected("ann", ["low_gain"])] == [first.id]


async def test_the_first_rejected_traces_are_found_in_one_pass(store: Store) -> None:
    if store.database == "sqlite":
        pytest.skip("SQLite shows no plan in JSON")
    plans = list[Any]()
    engine = store._database.engine.sync_engine

    def explain(connection: Connection, cursor: Any, sql: str, given: Any, *_: Any) -> None:
        if "row_number" in sql or "min(" in sql:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", given)
            plans.append(cursor.fetchone()[0])

    event.listen(engine, "before_cursor_execute", explain)
    try:
        await store.traces.list_first_rejected("ann", ["low_gain"])
    finally:
        event.remove(engine, "before_cursor_execute", explain)
    [plan] = plans
    assert str(plan).count("'Relation Name': 'traces'") == 1
