"""Erasures and versions: those that learned from the user go or are withdrawn, and what is trained after them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from erasing import one, receipt_of, run, user
from mindprint_server.store import (
    FilesGone,
    LeaseRevoked,
    Store,
    publication,
)


async def test_versions_that_learned_from_the_user_are_withdrawn(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "bob")
    clean = await make.completed(store, await make.cohort_claim(store, "cooks"))
    await make.cohort(store, "cooks", "ann", traces=2)
    tainted = await make.completed(store, await make.cohort_claim(store, "cooks"))
    assert (tainted.start, tainted.state) == ("cohort/cooks@1", "live")
    child = await make.completed(store, await make.claim(store, adapter="user/bob"))
    assert child.start == "cohort/cooks@2"
    receipt = receipt_of(await run(store, user()))
    assert receipt.withdrawn == ["cohort/cooks@2", "user/bob@1"]
    assert receipt.retraining == ["cohort/cooks", "user/bob"]
    assert receipt.removed["versions"] == []
    gone = await store.versions.get("cohort/cooks", 2)
    assert (gone.state, gone.files) == ("refused", False)
    assert gone.checks[-1].name == "erased_data"
    assert receipt.id in gone.checks[-1].detail
    assert [item.prompt_ids for item in gone.manifest.parity_items] == [[0]]
    pointers = await store.live_versions.get("cohort/cooks")
    assert pointers.live is not None
    assert pointers.live.version == clean.version
    assert (await store.live_versions.get("user/bob")).live is None
    # The trace of bob waits for his own adapter again, which starts from the clean version.
    again = await make.claim(store, adapter="user/bob")
    assert again is not None
    assert again.start.version == clean.version


async def test_other_members_traces_train_the_cohort_again_from_a_clean_parent(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "ann", "bob", traces=2)
    await make.completed(store, await make.cohort_claim(store, "cooks"))
    assert await make.cohort_claim(store, "cooks") is None
    receipt = receipt_of(await run(store, user()))
    assert receipt.withdrawn == ["cohort/cooks@1"]
    lease = await make.cohort_claim(store, "cooks")
    assert lease is not None
    assert lease.start is None
    assert {t.user_id for t in await store.traces.list_of_lease(lease.id)} == {"bob"}
    retrained = await make.completed(store, lease)
    assert (retrained.version, retrained.state) == (2, "live")
    assert await make.cohort_claim(store, "cooks") is None


async def test_running_leases_with_the_users_rows_are_revoked(store: Store, make: Any) -> None:
    await make.cohort(store, "cooks", "ann", "bob")
    await make.completed(store, await make.cohort_claim(store, "cooks"))
    await make.cohort(store, "cooks", "ann", "bob")
    own = await make.claim(store, adapter="user/ann")
    cohort = await make.cohort_claim(store, "cooks")
    child = await make.claim(store, adapter="user/bob")
    free = await make.leased(store, "cas")
    assert child.start.adapter == "cohort/cooks"
    receipt = receipt_of(await run(store, user()))
    assert receipt.revoked_leases == [own.id, cohort.id, child.id]
    for lease in (own, cohort, child):
        stored = await store.leases.get(lease.id)
        assert (stored.state, stored.revoked_by) == ("revoked", receipt.id)
        number = (await store.versions.allocate(lease.adapter)).version
        for call in (
            store.leases.heartbeat(lease.id, 60),
            store.leases.release(lease.id),
            store.leases.record_samples(lease.id, {}),
            store.publication.publish(lease.id, make.version(lease, number)),
        ):
            with pytest.raises(LeaseRevoked, match=receipt.id):
                await call
    await store.leases.heartbeat(free.id, 60)
    assert {t.state for t in await store.traces.find(user="bob")} == {"waiting"}


async def test_files_go_with_their_versions(store: Store, make: Any) -> None:
    version = await make.trained(store)
    await store.versions.set_artifact(version, "a" * 64)
    receipt = receipt_of(await run(store, user()))
    assert receipt.removed["artifacts"] == ["a" * 64]
    assert [sealed.artifacts for sealed in await store.erasures.list_sealed(0)] == [["a" * 64]]


async def test_one_engagement_withdraws_only_the_versions_that_saw_it(store: Store, make: Any) -> None:
    await make.user(store, "ann", 1)
    await store.traces.add(make.trace("ann", "e0"))
    first = await make.claim(store, adapter="user/ann", start_from="base")
    await store.leases.record_samples(first.id, {"ann": ["e0"]})
    await make.completed(store, first)
    await make.user(store, "ann", 3)
    await store.traces.add(make.trace("ann", "e1"))
    second = await make.claim(store, adapter="user/ann", start_from="base")
    await store.leases.record_samples(second.id, {"ann": ["e0", "e1"]})
    await make.completed(store, second)
    assert receipt_of(await run(store, one("e2"))).withdrawn == []
    receipt = receipt_of(await run(store, one("e1")))
    assert receipt.withdrawn == ["user/ann@2"]
    live = (await store.live_versions.get("user/ann")).live
    assert live is not None
    assert live.version == 1
    assert [(t.engagement_id, t.state) for t in await store.traces.find()] == [("e0", "trained")]


async def test_other_servers_learn_which_files_go(store: Store, other: Store, make: Any) -> None:
    start = (await store.tenants.list_epochs())["default"]
    await make.trained(store)
    erasure = await store.erasures.request(user())
    await store.erasures.collect(erasure.id)
    assert await other.erasures.list_sealed(start) == []
    epoch = await store.erasures.seal(erasure.id)
    assert [(one.epoch, one.versions) for one in await other.erasures.list_sealed(start)] == [(epoch, ["user/ann@1"])]
    await run(store, user())
    assert [(one.epoch, one.versions) for one in await other.erasures.list_sealed(start)] == [(epoch, ["user/ann@1"])]
    assert await other.erasures.list_sealed(epoch or 0) == []


async def test_a_trace_waits_again_if_its_version_is_withdrawn(store: Store, make: Any) -> None:
    await make.user(store, "ann", 3)
    kept = await store.traces.add(make.trace("ann", "e0"))
    await store.traces.add(make.trace("ann", "e1"))
    await make.completed(store, await make.claim(store, adapter="user/ann"))
    assert (await store.traces.get(kept.id)).version == 1
    receipt = receipt_of(await run(store, one("e1")))
    assert receipt.withdrawn == ["user/ann@1"]
    assert receipt.retraining == ["user/ann"]
    again = await store.traces.get(kept.id)
    assert (again.state, again.version, again.versions) == ("waiting", None, ["user/ann@1"])
    with pytest.raises(FilesGone):
        await store.live_versions.set_live("user/ann", 1)
    lease = await make.claim(store, adapter="user/ann")
    assert lease is not None
    assert (lease.start, lease.trace_ids) == (None, [kept.id])


async def test_a_version_whose_publication_is_being_committed_is_found(store: Store, other: Store, make: Any) -> None:
    lease = await make.leased(store)
    number = (await store.versions.allocate(lease.adapter)).version
    erasure = await store.erasures.request(user())
    async with other._database.transaction() as db:
        await publication._publish(db, lease.id, make.version(lease, number), None, datetime.now(UTC))
        collecting = asyncio.create_task(store.erasures.collect(erasure.id))
        await asyncio.sleep(0.3)  # it may begin meanwhile; when it begins decides nothing
    plan = await collecting
    assert plan is not None
    assert plan.versions == ["user/ann@1"]
