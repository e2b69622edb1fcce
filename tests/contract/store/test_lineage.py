from __future__ import annotations

from typing import Any

import pytest

from mindprint_server.store import Holdout, RecordNotFound, Store


async def test_a_version_says_why_it_is_as_it_is(store: Store, make: Any) -> None:
    await make.user(store, "ann", 10)
    hinted = make.trace("ann", "e1").provenance.model_copy(update={"saw_answer": True})
    traces = [
        await store.traces.add(make.trace("ann", "e0", scores={"gain": 0.5})),
        await store.traces.add(make.trace("ann", "e1", provenance=hinted)),
    ]
    lease = await make.claim(store, holdout=Holdout(0.1, 1, 9))
    await store.leases.record_samples(lease.id, {"ann": ["e2"]}, {"ann": ["t9"]})
    version = await make.completed(store, lease)
    lineage = await store.lineage.get("user/ann", 1)
    assert lineage.version == version
    assert [t.model_dump() for t in lineage.traces] == [
        {
            "trace_id": traces[0].id,
            "user_id": "ann",
            "engagement_id": "e0",
            "saw_answer": False,
            "scores": {"gain": 0.5},
        },
        {"trace_id": traces[1].id, "user_id": "ann", "engagement_id": "e1", "saw_answer": True, "scores": {}},
    ]
    assert (lineage.fast, lineage.held_out, lineage.ancestors) == ({"ann": ["e2"]}, {"ann": ["e9"]}, [])
    assert lineage.rejected == {"ann": ["t9"]}
    with pytest.raises(RecordNotFound, match="user/ann@2"):
        await store.lineage.get("user/ann", 2)


async def test_ancestors_are_what_training_began_with(store: Store, make: Any) -> None:
    await make.cohort(store, "everyone", "bob")
    await make.completed(store, await make.cohort_claim(store))
    for _ in range(3):
        await make.trained(store, "ann")
    await store.live_versions.set_live("user/ann", 1)
    last = await make.trained(store, "ann")
    assert last.start == "user/ann@1"
    assert (await store.lineage.get("user/ann", 4)).ancestors == ["user/ann@1", "cohort/everyone@1"]
    assert (await store.lineage.get("user/ann", 3)).ancestors == ["user/ann@2", "user/ann@1", "cohort/everyone@1"]


async def test_a_trace_lists_its_versions_refused_ones_too(store: Store, make: Any) -> None:
    lease = await make.leased(store, count=1)
    trace = (await store.traces.find())[0]
    assert trace.versions == []
    await make.refused(store, lease)
    again = await make.claim(store)
    assert (await store.traces.list_of_lease(again.id))[0].versions == ["user/ann@1"]
    await make.completed(store, again)
    shared = await make.cohort_claim(store)
    await make.completed(store, shared)
    found = await store.traces.get(trace.id)
    assert (found.version, found.versions) == (2, ["cohort/everyone@1", "user/ann@1", "user/ann@2"])
    assert await store.traces.find() == await store.traces.list_of_lease(shared.id) == [found]
    assert [t.trace_id for t in (await store.lineage.get("user/ann", 1)).traces] == [trace.id]
