from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from mindprint_server.store import Holdout, RecordNotFound, Store, traces
from mindprint_server.store import holdout as holdouts
from mindprint_server.store.states import held_out_count

FIFTH = Holdout(share=0.2, min_engagements=5, max_engagements=3)


@pytest.mark.parametrize(
    "holdout",
    [FIFTH, Holdout(), Holdout(0.1, 1, 100), Holdout(0.29, 1, 100), Holdout(0.5, 3, 2), Holdout(1.0, 2, 4)],
    ids=str,
)
async def test_the_database_counts_as_the_rule_does(store: Store, make: Any, holdout: Holdout) -> None:
    counts = [0, 1, 2, 3, 4, 5, 9, 10, 11, 100]
    for count in counts:
        await make.user(store, f"u{count}", count)
    held = await store._database.read(holdouts.of_users, holdout, [f"u{count}" for count in counts])
    rule = {f"u{n}": held_out_count(n, holdout.share, holdout.min_engagements, holdout.max_engagements) for n in counts}
    assert held == {f"u{n}": [f"e{m}" for m in range(n - rule[f"u{n}"], n)] for n in counts if rule[f"u{n}"]}


async def test_the_newest_are_held_out_by_time_then_id(store: Store, make: Any) -> None:
    same = [make.engagement(n, id=id, occurred_at=make.T0) for n, id in enumerate(["b", "a", "d", "c"])]
    await store.engagements.add("ann", [make.engagement(9, id="z", occurred_at=make.T0 - timedelta(1)), *same])
    await make.user(store, "bob", 9)
    half = Holdout(0.5, 1, 100)
    assert await store._database.read(holdouts.of_users, half, ["ann"]) == {"ann": ["c", "d"]}


async def test_batches_do_not_plan_what_is_held_out(store: Store, make: Any) -> None:
    await make.user(store, "ann", 10)
    await make.user(store, "bob", 2)
    bobs = [("bob", "e0"), ("bob", "e1")]
    assert await store.traces.list_untraced(None, FIFTH) == [*(("ann", f"e{n}") for n in range(8)), *bobs]
    assert await store.traces.list_untraced(["ann"], FIFTH) == [("ann", f"e{n}") for n in range(8)]
    assert len(await store.traces.list_untraced(["ann"])) == 10
    with pytest.raises(RecordNotFound, match="carl"):
        await store.traces.list_untraced(["carl"], FIFTH)


async def test_a_claim_leaves_what_is_held_out_until_newer_ones_come(store: Store, make: Any) -> None:
    await make.user(store, "ann", 10)
    early, late = [(await store.traces.add(make.trace("ann", id))).id for id in ("e3", "e9")]
    assert await make.claim(store, min_traces=2, holdout=FIFTH) is None
    lease = await make.claim(store, holdout=FIFTH)
    assert (lease.trace_ids, lease.held_out) == ([early], {"ann": ["e8", "e9"]})
    assert await store.leases.get(lease.id) == lease
    await make.completed(store, lease)
    assert await make.claim(store, holdout=FIFTH) is None

    await make.user(store, "ann", 12)
    following = await make.claim(store, holdout=FIFTH)
    assert (following.trace_ids, following.held_out) == ([late], {"ann": ["e10", "e11"]})


async def test_adapter_with_most_traces_is_chosen_by_trainable_traces(store: Store, make: Any) -> None:
    await make.user(store, "ann", 10)
    for engagement in ("e0", "e8", "e9"):
        await store.traces.add(make.trace("ann", engagement))
    await make.waiting(store, "bob", 2)
    lease = await make.claim(store, holdout=FIFTH)
    assert (lease.adapter, lease.held_out) == ("user/bob", {})


@pytest.mark.parametrize("fast", [False, True], ids=["slow", "fast"])
@pytest.mark.parametrize("start_from", ["parent", "base"])
async def test_what_training_has_seen_is_never_held_out(store: Store, make: Any, fast: bool, start_from: str) -> None:
    """A user below the least has none held out: what was trained on then cannot examine a later version."""
    await make.user(store, "ann", 4)
    await store.traces.add(make.trace("ann", "e0" if fast else "e3"))
    lease = await make.claim(store, holdout=FIFTH)
    assert lease.held_out == {}
    if fast:
        await store.leases.record_samples(lease.id, {"ann": ["e3"], "bob": ["e4"]})
    await make.completed(store, lease)
    await make.user(store, "ann", 5)
    await store.engagements.add("ann", [make.engagement(0, id=f"old{n}") for n in range(5)])
    await store.traces.add(make.trace("ann", "e1"))
    assert (await make.claim(store, holdout=FIFTH, start_from=start_from)).held_out == {"ann": ["e4"]}


async def test_what_a_cohort_saw_is_not_held_out_of_those_who_start_from_it(store: Store, make: Any) -> None:
    await make.user(store, "ann", 4)
    await store.traces.add(make.trace("ann", "e3"))
    await make.completed(store, await make.cohort_claim(store))
    await make.user(store, "ann", 5)
    await store.traces.add(make.trace("ann", "e1"))
    await store.engagements.add("ann", [make.engagement(0, id=f"old{n}") for n in range(5)])
    assert (await make.claim(store, holdout=FIFTH)).held_out == {"ann": ["e4"]}


async def test_many_rows_that_the_database_knows_nothing_of_yet(store: Store, make: Any) -> None:
    """Ranking all engagements anew for each trace would take minutes."""
    users = [f"u{n}" for n in range(150)]
    for user in users:
        await make.user(store, user, 30)
    many = [make.trace(user, f"e{n}") for user in users for n in range(30)]
    async with asyncio.timeout(60):
        await store._database.write(traces.insert, many)
    async with asyncio.timeout(10):
        assert len((await make.claim(store, holdout=FIFTH)).trace_ids) == 27
        lease = await make.cohort_claim(store, holdout=FIFTH, max_traces=10_000)
        assert len(lease.trace_ids) == 150 * 27
        assert await store.traces.list_untraced(None, FIFTH) == []


async def test_without_anything_unseen_nothing_is_held_out(store: Store, make: Any) -> None:
    await make.user(store, "ann", 4)
    await store.traces.add(make.trace("ann", "e3"))
    await make.completed(store, await make.claim(store, holdout=FIFTH))
    await store.engagements.add("ann", [make.engagement(0, id="old")])
    await store.traces.add(make.trace("ann", "e1"))
    assert (await make.claim(store, holdout=FIFTH)).held_out == {}
