"""Steps of a server's wall clock neither end nor prolong a lease."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
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


def start_anew(monkeypatch: pytest.MonkeyPatch, *, stepped: timedelta, rebooted: bool = False) -> None:
    """Let the clock be that of a process that begins after the wall clock was set."""
    monkeypatch.setattr(clock, "_ANCHOR", clock._ANCHOR + stepped)
    if rebooted:
        real = clock.mark_now
        monkeypatch.setattr(clock, "mark_now", lambda: replace(real(), boot_id="another", boot_s=1.0))


@pytest.mark.parametrize("stepped", [HOUR, -HOUR])
async def test_step_between_two_servers_moves_the_deadlines_as_far(
    store: Store, make: Any, monkeypatch: pytest.MonkeyPatch, dialect: str, stepped: timedelta
) -> None:
    held = await make.leased(store, "ann", ttl_s=600)
    dead = await make.leased(store, "bob", ttl_s=600)
    ago = timedelta(seconds=700)
    await store.leases.heartbeat(dead.id, 600, await time_of(store) - ago)
    if dialect == "sqlite":
        start_anew(monkeypatch, stepped=stepped)
    await store.leases.follow_clock()
    for lease, left in ((held, timedelta(0)), (dead, -ago)):
        moved = (await store.leases.get(lease.id)).deadline - await time_of(store)
        assert abs(moved - (timedelta(seconds=600) + left)) < timedelta(seconds=60)
    assert (await store.leases.release(held.id)).state == "released"
    with pytest.raises(LeaseLost, match="ran out"):
        await store.leases.release(dead.id)
    await store.leases.follow_clock()
    assert abs((await store.leases.get(dead.id)).deadline - await time_of(store)) < HOUR / 2, "it moves once"


async def test_step_back_before_a_start_of_the_computer_prolongs_no_lease_beyond_its_time(
    store: Store, make: Any, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    lease = await make.leased(store, "ann", ttl_s=600)
    if dialect == "sqlite":
        start_anew(monkeypatch, stepped=-HOUR, rebooted=True)
    await store.leases.follow_clock()
    left = (await store.leases.get(lease.id)).deadline - await time_of(store)
    assert timedelta(seconds=500) < left <= timedelta(seconds=600)


@pytest.mark.parametrize(
    ("boot_id", "passed_s", "boot_s", "step_s"),
    [
        ("one", 50.0, 150.0, 0.0),
        ("one", 3650.0, 150.0, 3600.0),
        ("one", -3550.0, 150.0, -3600.0),
        ("two", 3650.0, 5.0, 0.0),
        ("two", -3550.0, 5.0, -3550.0),
    ],
)
def test_step_of_the_wall_clock_is_what_no_other_clock_shows(
    boot_id: str, passed_s: float, boot_s: float, step_s: float
) -> None:
    before = clock.ClockMark(datetime(2026, 1, 1, tzinfo=UTC), "one", 100.0)
    now = clock.ClockMark(before.at + timedelta(seconds=passed_s), boot_id, boot_s)
    assert clock.step_between(before, now) == timedelta(seconds=step_s)


def test_where_the_system_tells_no_start_only_steps_back_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "BOOT_ID", Path("/nowhere"))
    before = clock.mark_now()
    assert before.boot_id is None
    assert clock.step_between(before, replace(before, at=before.at + HOUR)) == timedelta(0)
    assert clock.step_between(before, replace(before, at=before.at - HOUR)) == -HOUR


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
