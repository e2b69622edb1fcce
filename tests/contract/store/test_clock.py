"""Steps of a server's wall clock neither end nor prolong a lease."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest
from mindprint_server.store import LeaseLost, Store, clock

HOUR = timedelta(hours=1)


async def time_of(store: Store) -> datetime:
    async def read(db: AsyncConnection) -> datetime:
        return await clock.read_time(db)

    return await store._database.read(read)


def step_wall_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Let each module of the store that reads the wall clock see it stepped."""

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    for name, module in list(sys.modules.items()):
        if name.startswith("mindprint_server.") and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Stepped)


async def test_step_forward_does_not_end_a_lease(store: Store, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = await make.leased(store, "ann", ttl_s=600)
    step_wall_clock(monkeypatch, HOUR)
    assert (await store.leases.heartbeat(lease.id, 600)).state == "active"
    assert await make.claim(store, adapter="user/ann") is None
    await store.leases.record_samples(lease.id, {"ann": ["e0"]})
    assert (await make.completed(store, lease)).state == "live"


async def test_step_backward_does_not_prolong_a_lease(store: Store, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease ended half an hour ago; by the stepped clock it would end in half an hour."""
    lease = await make.leased(store, "ann", ttl_s=1800, now=await time_of(store) - HOUR)
    step_wall_clock(monkeypatch, -HOUR)
    with pytest.raises(LeaseLost, match="ran out"):
        await store.leases.release(lease.id)
    with pytest.raises(LeaseLost, match="ran out"):
        await make.completed(store, lease)
    again = await make.claim(store, adapter="user/ann")
    assert (again.trace_ids, again.attempt) == (lease.trace_ids, 2)


async def test_extension_never_shortens_a_lease(store: Store, make: Any) -> None:
    lease = await make.leased(store, "ann", ttl_s=600, now=make.T0)
    assert (await store.leases.extend(lease.id, 60, make.T0)).deadline == lease.deadline
    assert (await store.leases.extend(lease.id, 900, make.T0)).deadline == make.T0 + timedelta(seconds=900)


async def test_deadlines_are_by_the_clock_of_the_database(store: Store, make: Any, dialect: str) -> None:
    before = await time_of(store)
    lease = await make.leased(store, "ann", ttl_s=60)
    after = await time_of(store)
    assert before <= lease.deadline - timedelta(seconds=60) <= after
    if dialect == "sqlite":
        assert abs(clock.process_time() - datetime.now(UTC)) < HOUR, "it begins with the wall clock"


async def test_steps_neither_end_nor_prolong_claims_on_items(
    store: Store, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make.user(store, "ann", 2)
    items, claims = [("ann", "e0"), ("ann", "e1")], store.batch_claims
    held, _ = await store.batches.add(BatchRequest(), items, max_open=9)
    ended, _ = await store.batches.add(BatchRequest(mode="direct"), items, max_open=9)
    await claims.claim(held.id, "a", limit=9, ttl_s=600)
    await claims.claim(ended.id, "a", limit=9, ttl_s=1800, now=await time_of(store) - HOUR)
    for by in (HOUR, -HOUR):
        step_wall_clock(monkeypatch, by)
        assert [(open.id, open.has_claimable) for open in await claims.list_open()] == [
            (held.id, False),
            (ended.id, True),
        ]
        assert await claims.claim(held.id, "b", limit=9, ttl_s=600) == []
        monkeypatch.undo()
    step_wall_clock(monkeypatch, -HOUR)
    assert await claims.claim(ended.id, "b", limit=9, ttl_s=600) == items
