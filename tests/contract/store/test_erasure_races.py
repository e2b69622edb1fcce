"""Erasures beside other work: writers, batches and servers at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest

from erasing import CANARY, everything, one, planted, receipt_of, run, signed, user
from mindprint.types import BatchRequest
from mindprint_server.store import (
    ErasureTarget,
    RecordNotFound,
    Store,
    UserBeingErased,
    erasures,
)
from mindprint_server.store.erasures import chunks
from mindprint_server.store.exceptions import RowsExpiring


def expired(before: datetime) -> ErasureTarget:
    return ErasureTarget(kind="retention", user_id="ann", before=before)


async def test_a_user_that_is_being_erased_takes_no_rows(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann")
    batch, _ = await store.batches.add(BatchRequest(), [("ann", "e0")], max_open=9)
    erasure = await store.erasures.request(user())
    for call in (
        other.engagements.add("ann", [make.engagement(9)]),
        other.profiles.add(make.profile("ann")),
        other.traces.add(make.trace("ann")),
        other.traces.add_imported("ann", [make.trace("ann")], fingerprint=str, max_waiting=9),
    ):
        with pytest.raises(UserBeingErased, match="GET /v1/erasures"):
            await call
    assert await make.finish(store, batch.id, "ann", "e0", traces=[make.trace("ann")], outcome="accepted") != []
    assert await store.traces.find() == []
    assert await store.traces.list_untraced(None) == []
    assert await store.erasures.list_open() == [("default", erasure.id)]
    await run(store, user())
    await make.user(store, "ann")
    assert len(await store.engagements.list_page("ann")) == 3


async def test_engagements_are_stored_while_a_retention_removes_old_ones(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 4)
    new = make.engagement(9)
    target = expired(before=make.engagement(2).occurred_at)
    erasure = await store.erasures.request(target)
    assert (await other.engagements.add("ann", [new])).created == 1
    for call in (
        other.profiles.add(make.profile("ann")),
        other.traces.add(make.trace("ann")),
        other.traces.add_imported("ann", [make.trace("ann")], fingerprint=str, max_waiting=9),
    ):
        with pytest.raises(RowsExpiring, match="retry in a moment"):
            await call
    plan = await store.erasures.collect(erasure.id)
    assert plan is not None
    assert plan.engagements == ["e0", "e1"]
    for chunk in chunks(plan, 9):
        await store.erasures.delete(erasure.id, chunk)
    again = new.model_copy(update={"id": "e0"})
    assert (await other.engagements.add("ann", [again])).created == 1
    await run(store, target)
    left = {item.id: item for item in await store.engagements.list_page("ann")}
    assert left.keys() == {"e0", "e2", "e3", new.id}
    assert left["e0"] == again, "a step that is done again does not take what came since"


async def test_an_erasure_beside_a_retention_takes_no_rows(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 4)
    await store.erasures.request(expired(before=make.engagement(2).occurred_at))
    await store.erasures.request(user())
    with pytest.raises(UserBeingErased):
        await other.engagements.add("ann", [make.engagement(9)])


async def test_work_that_read_the_rows_before_stores_nothing_after(store: Store, make: Any) -> None:
    before = (await store.tenants.list_epochs())["default"]
    await make.user(store, "ann")
    await run(store, user())
    await make.user(store, "ann")
    with pytest.raises(UserBeingErased):
        await store.traces.add(make.trace("ann"), read_epoch=before)
    with pytest.raises(UserBeingErased):
        await store.profiles.add(make.profile("ann"), read_epoch=before)
    now = (await store.tenants.list_epochs())["default"]
    assert now == before + 1
    await store.traces.add(make.trace("ann"), read_epoch=now)


async def test_writers_that_race_with_a_request_are_erased_or_refused(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 1)
    writers = [
        one.engagements.add("ann", [make.engagement(n)]) for n in range(1, 30) for one in ((store, other)[n % 2],)
    ]
    outcomes = await asyncio.gather(
        *writers[:15], store.erasures.request(user()), *writers[15:], return_exceptions=True
    )
    errors = [one for one in outcomes if isinstance(one, BaseException)]
    assert all(isinstance(error, UserBeingErased) for error in errors)
    receipt = receipt_of(await run(store, user()))
    assert receipt.counts["engagements"] == 30 - len(errors)
    assert "ann" not in (await everything(store))["engagements"]


async def test_traces_that_race_with_a_request_are_erased_or_refused(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann", 1)
    calls = [(store, other)[n % 2].traces.add(make.trace("ann", thinking=f"t{n}")) for n in range(20)]
    await asyncio.gather(*calls[:10], store.erasures.request(user()), *calls[10:], return_exceptions=True)
    receipt = receipt_of(await run(store, user()))
    rows = await everything(store)
    assert rows["traces"] == ""
    assert receipt.counts["traces"] == len(receipt.removed["traces"])


async def test_two_servers_run_a_job_at_once(store: Store, other: Store, make: Any) -> None:
    await planted(store, make)
    await store.erasures.request(user())
    first, second = await asyncio.gather(run(store, user()), run(other, user()))
    assert first == second
    assert receipt_of(first).counts["engagements"] == 4
    assert CANARY not in "".join((await everything(store)).values())
    assert len(await store.erasures.list_page()) == 1


async def test_engagements_that_come_at_the_end_make_the_user_anew(store: Store, other: Store, make: Any) -> None:
    await make.user(store, "ann")
    erasure = await store.erasures.request(user())
    plan = await store.erasures.collect(erasure.id)
    assert plan is not None
    for chunk in chunks(plan, 9):
        await store.erasures.delete(erasure.id, chunk)
    async with other._database.transaction() as db:
        await erasures._finish(db, erasure.id, signed, datetime.now(UTC))
        adding = asyncio.create_task(make.user(store, "ann", 2))
        tracing = asyncio.create_task(store.traces.add(make.trace("ann")))
        await asyncio.sleep(0.3)  # they may begin meanwhile; when they begin decides nothing
    await adding
    assert len(await store.engagements.list_page("ann")) == 2
    with contextlib.suppress(RecordNotFound):
        await tracing


async def test_a_batch_that_was_planned_before_a_request_does_not_keep_the_erasure_from_ending(
    store: Store, other: Store, make: Any
) -> None:
    await make.user(store, "ann")
    await make.user(store, "bob", 1)
    planned = [("ann", "e0"), ("bob", "e0"), ("ann", "e1")]
    erasure = await store.erasures.request(user())
    plan = await store.erasures.collect(erasure.id)
    during, _ = await other.batches.add(BatchRequest(), planned, max_open=9)
    assert plan is not None
    for chunk in chunks(plan, 2):
        await store.erasures.delete(erasure.id, chunk)
    await store.erasures.seal(erasure.id)
    await store.erasures.finish(erasure.id, signed)
    assert (await store.erasures.get(erasure.id)).state == "done"
    after, _ = await other.batches.add(BatchRequest(seed=2), planned, max_open=9)
    assert [await make.pending(store, batch.id) for batch in (during, after)] == [[("bob", "e0")], []]
    assert after.skipped == {"in_other_batch": 1}


async def test_a_batch_leaves_out_an_engagement_that_was_erased_after_it_was_planned(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    await run(store, one("e1"))
    batch, _ = await store.batches.add(BatchRequest(), [("ann", "e0"), ("ann", "e1")], max_open=9)
    assert await make.pending(store, batch.id) == [("ann", "e0")]
