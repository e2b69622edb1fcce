from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from mindprint_server.store import LeaseLost, NothingToRollBack, RecordNotFound, Store, VersionRecord

KEY = "user/ann"


async def test_completing_trains_the_traces_and_goes_live(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    late = (await make.waiting(store, "ann", 1))[0]
    number = (await store.versions.allocate(KEY)).version
    sent = make.version(lease, number)
    version = await store.publication.publish(lease.id, sent)
    assert version.model_dump() == sent.model_copy(update={"state": "live"}).model_dump()
    assert (await store.live_versions.get(KEY)).live == await store.versions.get(KEY, number) == version
    assert [(t.state, t.version) for t in await store.traces.list_of_lease(lease.id)] == [("trained", number)] * 2
    assert (await store.traces.get(late)).state == "waiting"
    done = await store.leases.get(lease.id)
    assert (done.state, done.version) == ("completed", number)
    assert await make.stored_versions(store) == {(KEY, number)}


async def test_the_next_version_puts_the_former_on_standby(store: Store, make: Any) -> None:
    first = await make.trained(store, digest="a")
    second = await make.trained(store, digest="b")
    assert second.parent == first.version
    adapter = await store.adapters.get(KEY)
    assert adapter.live == second.version
    assert [(v.version, v.state) for v in adapter.versions] == [(1, "standby"), (2, "live")]
    await make.trained(store, "bob", digest="c")
    assert [a.key for a in await store.adapters.list_page()] == [KEY, "user/bob"]
    assert (await store.adapters.list_page())[0] == adapter


async def test_completing_again_returns_what_is_stored(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    version = await store.publication.publish(
        lease.id, make.version(lease, (await store.versions.allocate(KEY)).version, "a")
    )
    repeat = make.version(lease, (await store.versions.allocate(KEY)).version, "a")
    assert await store.publication.publish(lease.id, repeat, now=lease.deadline + timedelta(days=1)) == version
    with pytest.raises(LeaseLost, match="is stored, with digest a"):
        await store.publication.publish(lease.id, make.version(lease, repeat.version, "b"))
    with pytest.raises(LeaseLost):
        await store.publication.refuse(lease.id, repeat, max_attempts=3)
    assert await make.stored_versions(store) == {(KEY, version.version)}


async def test_of_two_uploads_at_once_one_version_comes(store: Store, other: Store, make: Any) -> None:
    lease = await make.leased(store)
    allocated = await asyncio.gather(*(s.versions.allocate(KEY) for s in (store, other)))
    uploads = [
        s.publication.publish(lease.id, make.version(lease, n))
        for s, (n, _) in zip((store, other), allocated, strict=True)
    ]
    first, second = await asyncio.gather(*uploads)
    assert first == second
    assert len(await make.stored_versions(store)) == 1


async def test_a_lost_lease_completes_nothing(store: Store, make: Any) -> None:
    lease = await make.leased(store, ttl_s=60, now=make.T0)
    version = make.version(lease, (await store.versions.allocate(KEY)).version)
    end = make.T0 + timedelta(seconds=60)
    with pytest.raises(LeaseLost, match="ran out"):
        await store.publication.publish(lease.id, version, now=end)
    with pytest.raises(LeaseLost, match="ran out"):
        await store.publication.refuse(lease.id, version, max_attempts=3, now=end)
    again = await make.claim(store, now=end)
    with pytest.raises(LeaseLost, match="expired"):
        await store.publication.publish(lease.id, version, now=make.T0)
    with pytest.raises(RecordNotFound, match="lease 'none'"):
        await store.publication.publish("none", version)
    assert await make.stored_versions(store) == set()
    assert again.trace_ids == lease.trace_ids


async def test_a_lease_completes_only_its_own_adapter(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    number = (await store.versions.allocate("user/bob")).version
    with pytest.raises(LeaseLost, match="user/ann, not of user/bob"):
        await store.publication.publish(lease.id, make.version(lease, number, adapter="user/bob"))
    assert await make.stored_versions(store) == set()


@pytest.mark.parametrize("end", ["publish", "refuse"])
async def test_a_failure_before_the_commit_leaves_everything_as_it_was(store: Store, make: Any, end: str) -> None:
    lease = await make.leased(store)
    before = await store.traces.find(), await store.leases.get(lease.id)
    number = (await store.versions.allocate(KEY)).version
    version = make.version(lease, number)
    engine = store._database.engine.sync_engine

    def fail(_connection: object) -> None:
        raise RuntimeError("power cut")

    terms = {"max_attempts": 3} if end == "refuse" else {}
    event.listen(engine, "commit", fail)
    try:
        with pytest.raises(RuntimeError, match="power cut"):
            await getattr(store.publication, end)(lease.id, version, **terms)
    finally:
        event.remove(engine, "commit", fail)

    assert (await store.traces.find(), await store.leases.get(lease.id)) == before
    assert await make.stored_versions(store) == set()
    assert (await store.live_versions.get(KEY)).live is None
    assert (await store.versions.allocate(KEY)).version == number + 1
    assert (await store.publication.publish(lease.id, version)).state == "live"


async def test_a_failure_before_the_commit_leaves_a_cohort_and_its_pointers_as_they_were(
    store: Store, make: Any, check: Any
) -> None:
    key = "cohort/everyone"
    for _ in range(2):
        await make.cohort(store, "everyone", "ann")
        await make.completed(store, await make.cohort_claim(store))
    await make.cohort(store, "everyone", "ann")
    lease = await make.cohort_claim(store)
    version = make.version(lease, (await store.versions.allocate(key)).version)
    before = await store.traces.find(), await store.leases.get(lease.id), await store.adapters.get(key)
    engine = store._database.engine.sync_engine

    def fail(_connection: object) -> None:
        raise RuntimeError("power cut")

    event.listen(engine, "commit", fail)
    try:
        for call in (
            store.publication.publish(lease.id, version, canary_share=0.1),
            store.live_versions.withdraw(key, 2, check),
            store.retention.mark_files_removed(key, 1),
            store.live_versions.set_canary(key, 1, 0.1),
        ):
            with pytest.raises(RuntimeError, match="power cut"):
                await call
    finally:
        event.remove(engine, "commit", fail)

    assert (await store.traces.find(), await store.leases.get(lease.id), await store.adapters.get(key)) == before
    assert (await store.publication.publish(lease.id, version, canary_share=0.1)).state == "canary"


async def test_a_refused_version_is_kept_and_its_traces_wait_again(store: Store, make: Any) -> None:
    good = await make.trained(store, digest="good")
    lease = await make.leased(store)
    sent = make.version(lease, (await store.versions.allocate(KEY)).version, "bad")
    refused = await store.publication.refuse(lease.id, sent, max_attempts=2)
    assert refused.model_dump() == sent.model_copy(update={"state": "refused"}).model_dump()
    assert await store.publication.refuse(lease.id, sent, max_attempts=2) == refused
    assert (await store.leases.get(lease.id)).state == "released"
    with pytest.raises(LeaseLost, match="was refused"):
        await store.publication.publish(lease.id, sent)
    assert (await store.live_versions.get(KEY)).live == good
    again = await make.claim(store)
    assert (again.trace_ids, again.attempt) == (lease.trace_ids, 2)
    await store.publication.refuse(
        again.id, make.version(again, (await store.versions.allocate(KEY)).version), max_attempts=2
    )
    assert [t.id for t in await store.traces.find(state="dead_letter")] == lease.trace_ids


async def test_an_adapter_may_have_a_refused_version_only(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    await store.publication.refuse(
        lease.id, make.version(lease, (await store.versions.allocate(KEY)).version), max_attempts=3
    )
    adapter = await store.adapters.get(KEY)
    assert (adapter.live, [v.state for v in adapter.versions]) == (None, ["refused"])
    with pytest.raises(NothingToRollBack):
        await store.live_versions.rollback(KEY)


async def test_any_version_can_be_promoted_by_name(store: Store, make: Any) -> None:
    await make.trained(store, digest="a")
    lease = await make.leased(store)
    await store.publication.refuse(
        lease.id, make.version(lease, (await store.versions.allocate(KEY)).version, "b"), max_attempts=9
    )
    await make.trained(store, digest="c")
    assert (await store.live_versions.set_live(KEY, 1)).live == 1
    promoted = await store.live_versions.set_live(KEY, 2)
    assert [v.state for v in promoted.versions] == ["standby", "live", "standby"]
    off = await store.live_versions.set_live(KEY, None)
    assert (off.live, [v.state for v in off.versions]) == (None, ["standby", "refused", "standby"])
    assert (await store.live_versions.get(KEY)).live is None
    assert (await store.users.get("ann")).live_version is None
    assert await store.live_versions.set_live(KEY, None) == off
    with pytest.raises(RecordNotFound, match="version 'user/ann@9'"):
        await store.live_versions.set_live(KEY, 9)
    with pytest.raises(RecordNotFound, match="adapter 'user/bob'"):
        await store.live_versions.set_live("user/bob", None)


async def test_a_rollback_passes_over_the_refused(store: Store, make: Any) -> None:
    await make.trained(store, digest="a")
    lease = await make.leased(store)
    await store.publication.refuse(
        lease.id, make.version(lease, (await store.versions.allocate(KEY)).version, "b"), max_attempts=9
    )
    await make.trained(store, digest="c")
    await make.trained(store, digest="d")
    assert [(await store.live_versions.rollback(KEY)).live for _ in range(2)] == [3, 1]
    with pytest.raises(NothingToRollBack, match=KEY):
        await store.live_versions.rollback(KEY)
    assert (await store.adapters.get(KEY)).live == 1
    with pytest.raises(RecordNotFound):
        await store.live_versions.rollback("user/bob")


async def test_numbers_and_engine_ids_are_never_reused(store: Store, other: Store, make: Any) -> None:
    given = await asyncio.gather(*(s.versions.allocate(key) for s in (store, other) * 4 for key in (KEY, "user/bob")))
    assert sorted(one.version for one in given) == sorted([*range(1, 9), *range(1, 9)])
    ids = {one.engine_id for one in given}
    assert len(ids) == 16
    assert min(ids) > 0
    trained = await make.trained(store)
    assert (trained.version, trained.engine_id in ids) == (9, False)
    last = await other.versions.allocate(KEY)
    assert (last.version, last.engine_id in ids) == (10, False)


async def test_stored_version_has_the_engine_id_that_was_allocated(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    number, engine_id = await store.versions.allocate(KEY)
    stored = await store.publication.publish(lease.id, make.version(lease, number))
    assert stored.engine_id == engine_id
    assert (await store.live_versions.get(KEY)).live == stored
    assert "engine_id" not in stored.model_dump()


async def test_the_unknown_is_not_found(store: Store) -> None:
    assert (await store.live_versions.get(KEY)).live is None
    assert await store.adapters.list_page() == []
    for call in (store.adapters.get(KEY), store.versions.get(KEY, 1)):
        with pytest.raises(RecordNotFound):
            await call


async def test_artifacts_are_named_once_and_only_while_the_version_has_files(store: Store, make: Any) -> None:
    await make.trained(store, digest="a")
    await make.trained(store, digest="b")
    first, second = await store.versions.list_without_artifact()
    assert (first.version, second.version) == (1, 2)
    assert await store.versions.list_artifacts() == set()
    await store.versions.set_artifact(first, "d1")
    await store.versions.set_artifact(first, "other")
    await store.versions.set_artifact(second, "d2")
    assert (await store.versions.get(KEY, 1)).artifact == "d1"
    assert await store.versions.list_without_artifact() == []
    assert await store.versions.list_artifacts() == {"d1", "d2"}
    assert await store.retention.mark_files_removed(KEY, 1)
    assert await store.versions.list_artifacts() == {"d2"}


async def test_stored_version_has_its_artifact_and_shows_it_to_nobody(store: Store, make: Any) -> None:
    lease = await make.leased(store)
    number, engine_id = await store.versions.allocate(KEY)
    fields = make.version(lease, number).model_dump() | {"engine_id": engine_id, "artifact": "d1"}
    stored = await store.publication.publish(lease.id, VersionRecord.model_validate(fields))
    assert stored.artifact == "d1"
    assert "artifact" not in stored.model_dump()
