"""The kept counts of items and traces are those of the rows, whatever was done, alone and at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from erasing import one, run, user
from mindprint.types import BatchRequest, Funnel
from mindprint_server.store import ErasureTarget, Store, StoreError
from mindprint_server.store.batches import ItemResult
from mindprint_server.store.database import Database
from mindprint_server.store.funnel import _tally, fold
from mindprint_server.store.migrations import downgrade, upgrade
from mindprint_server.store.tables import batch_items, batches, live_versions, row_counts, traces
from mindprint_server.tenancy import in_tenant

USERS = ("ann", "bob", "eve")
REASONS = (None, "loop", "low_gain")
Key = tuple[str, str, str, str]
"""Batch, kind, label and reason."""


async def counted(db: AsyncConnection) -> Counter[Key]:
    """Count the rows one by one."""
    counts: Counter[Key] = Counter()
    for batch_id, outcome in await db.execute(select(batch_items.c.batch_id, batch_items.c.outcome)):
        counts[batch_id, "item", outcome or "", ""] += 1
    pointers = select(live_versions.c.adapter, live_versions.c.version).where(live_versions.c.version.is_not(None))
    live = {(adapter, version) for adapter, version in await db.execute(pointers)}
    attempted = set()
    for trace in await db.execute(select(traces)):
        kinds = {"generated": True, "trained": trace.state == "trained", "live": (trace.adapter, trace.version) in live}
        for batch_id in ("", trace.batch_id):
            if batch_id is not None:
                for kind, has in kinds.items():
                    counts[batch_id, kind, trace.verdict, trace.reason or ""] += has
        counts["", "state", trace.state, ""] += 1
        if trace.engagement_id is not None:
            attempted.add((trace.user_id, trace.engagement_id))
    counts["", "attempted", "", ""] += len(attempted)
    return +counts


async def kept(db: AsyncConnection) -> Counter[Key]:
    counts: Counter[Key] = Counter()
    for row in await db.execute(select(row_counts)):
        counts[row.batch_id, row.kind, row.label, row.reason] += row.amount
    assert all(amount >= 0 for amount in counts.values())
    return +counts


async def check(store: Store) -> None:
    """Compare the kept counts with the rows, and what is read from them with a count in an index."""

    async def compare(db: AsyncConnection) -> tuple[Funnel, list[str]]:
        assert await kept(db) == await counted(db)
        return fold(await db.execute(_tally())), list(await db.scalars(select(batches.c.id)))

    funnel, ids = await store._database.read(compare)
    assert (await store.funnel.get()).model_copy(update={"attempted": 0}) == funnel
    for id in ids:
        batch = await store.batches.get(id)
        assert batch.items >= batch.done


class Life:
    """Does what servers, trainers and operators do, in an order that a seed gives."""

    def __init__(self, store: Store, make: Any, seed: int) -> None:
        self.store = store
        self.make = make
        self.dice = random.Random(seed)
        self.batches: list[str] = []
        self.leases: list[Any] = []
        self.count = 0

    async def step(self) -> None:
        actions: list[Callable[[], Awaitable[Any]]] = [
            self.write_engagements, self.add_trace, self.add_trace, self.import_traces, self.start_batch,
            self.finish_items, self.finish_items, self.end_batch, self.claim, self.claim, self.end_lease,
            self.end_lease, self.move_pointer, self.move_pointer, self.erase, self.requeue,
        ]  # fmt: skip
        # Such as of a lease that an erasure has revoked: nothing was written.
        with contextlib.suppress(StoreError):
            await self.dice.choice(actions)()

    def user(self) -> str:
        return self.dice.choice(USERS)

    async def write_engagements(self) -> None:
        await self.make.user(self.store, self.user(), 4)

    def trace(self, user_id: str, engagement: str | None) -> Any:
        self.count += 1
        verdict = self.dice.choice(("accepted", "rejected"))
        reason = self.dice.choice(REASONS) if verdict == "rejected" else None
        thinking = f"because {self.dice.randrange(50)}"
        return self.make.trace(user_id, engagement, verdict, reason=reason, thinking=thinking)

    async def add_trace(self) -> None:
        engagement = f"e{self.dice.randrange(4)}" if self.dice.random() < 0.9 else None
        await self.store.traces.add(self.trace(self.user(), engagement))

    async def import_traces(self) -> None:
        user_id = self.user()
        new = [self.make.trace(user_id, f"e{n}", thinking=f"import {self.dice.randrange(9)}") for n in range(3)]
        await self.store.traces.add_imported(user_id, new, fingerprint=str, max_waiting=10**6)

    async def start_batch(self) -> None:
        items = [(user_id, f"e{n}") for user_id in USERS for n in range(4) if self.dice.random() < 0.7]
        batch, _ = await self.store.batches.add(BatchRequest(seed=self.dice.randrange(10**9)), items, max_open=10**6)
        self.batches.append(batch.id)

    async def finish_items(self) -> None:
        if self.batches:
            batch_id = self.dice.choice(self.batches)
            done = []
            for user_id, engagement in (await self.make.pending(self.store, batch_id))[:5]:
                written = [self.trace(user_id, engagement) for _ in range(self.dice.randrange(3))]
                accepted = any(trace.verdict == "accepted" for trace in written)
                outcome = "accepted" if accepted else self.dice.choice(("rejected", "unlikely"))
                done.append(ItemResult(batch_id, user_id, engagement, outcome, written))
            await self.store.batches.finish_items(done, {batch_id: 0.5})

    async def end_batch(self) -> None:
        if self.batches:
            await self.store.batches.cancel(self.dice.choice(self.batches))

    async def claim(self) -> None:
        terms = {"cohort_min_traces": 1} if self.dice.random() < 0.3 else {}
        late = self.make.T0 + timedelta(days=self.dice.choice((0, 0, 1)))
        self.leases.append(await self.make.claim(self.store, now=late, max_traces=4, max_attempts=2, **terms))

    async def end_lease(self) -> None:
        if lease := self.leases.pop() if self.leases else None:
            now = lease.deadline - timedelta(seconds=1)
            end = self.dice.choice(("publish", "publish", "canary", "refuse", "release"))
            if end == "release":
                await self.store.leases.release(lease.id, now)
                return
            version = self.make.version(lease, (await self.store.versions.allocate(lease.adapter)).version)
            if end == "refuse":
                await self.store.publication.refuse(lease.id, version, max_attempts=2, now=now)
            else:
                share = 0.2 if end == "canary" else None
                await self.store.publication.publish(lease.id, version, canary_share=share, now=now)

    async def move_pointer(self) -> None:
        key = self.dice.choice([f"user/{self.user()}", "cohort/everyone"])
        adapter = await self.store.adapters.get(key)
        number = self.dice.choice(adapter.versions).version
        pointers = self.store.live_versions
        moves: list[Callable[[], Awaitable[Any]]] = [
            lambda: pointers.set_live(key, number),
            lambda: pointers.set_live(key, None),
            lambda: pointers.rollback(key),
            lambda: pointers.set_canary(key, number, 0.1),
            lambda: pointers.withdraw(key, number, self.make.failed_check()),
        ]
        await self.dice.choice(moves)()

    async def erase(self) -> None:
        user_id = self.user()
        old = self.make.T0 + timedelta(hours=2)
        targets = [
            user(user_id),
            one(f"e{self.dice.randrange(4)}", user_id),
            ErasureTarget(kind="range", user_id=user_id, before=old),
            ErasureTarget(kind="retention", user_id=user_id, traces_before=old),
            ErasureTarget(kind="retention", user_id=user_id, before=old),
        ]
        await run(self.store, self.dice.choice(targets))

    async def requeue(self) -> None:
        await self.store.traces.requeue()


@pytest.mark.parametrize("seed", range(3))
async def test_counts_are_those_of_the_rows_after_each_step(store: Store, make: Any, seed: int) -> None:
    life = Life(store, make, seed)
    await life.write_engagements()
    for _ in range(50):
        await life.step()
        await check(store)


@pytest.mark.parametrize("seed", range(2))
async def test_counts_are_those_of_the_rows_after_work_at_the_same_time(
    store: Store, other: Store, make: Any, seed: int
) -> None:
    lives = [Life(one, make, 10 * seed + n) for n, one in enumerate((store, other, store, other))]
    for user_id in USERS:
        await make.user(store, user_id, 4)

    for _ in range(30):
        await asyncio.gather(*(life.step() for life in lives))
        await check(store)


async def test_counts_are_a_tenant_s_own(store: Store, make: Any) -> None:
    await make.waiting(store, "ann", 2)
    assert (await store.funnel.get()).accepted == 2
    with in_tenant("globex"):
        assert await store.funnel.get() == Funnel()


async def test_rows_of_an_older_release_are_counted_when_it_comes_up(empty: str, make: Any) -> None:
    database = await Database.open(empty, busy_timeout_s=30)
    store = Store(database)

    async def migrate(db: AsyncConnection, to: Callable[..., None], revision: str) -> None:
        await db.run_sync(to, revision)

    await make.trained(store)
    await database.write(migrate, downgrade, "0016")
    batch = await _write_rows(store, make)
    await database.write(migrate, upgrade, "head")
    await check(store)
    funnel = (await store.batches.get(batch)).funnel
    assert (funnel.accepted, funnel.rejected) == (1, {"loop": 1})
    assert (await store.funnel.get()).attempted == 2
    await database.close()


async def _write_rows(store: Store, make: Any) -> str:
    """Write rows as the older release does."""
    await make.user(store, "bob", 2)
    row = {"state": "running", "request": BatchRequest().model_dump(mode="json"), "created_at": make.T0}
    batch_id = "b1"

    async def write(db: AsyncConnection) -> None:
        await db.execute(batches.insert(), {**row, "id": batch_id})
        items = [{"batch_id": batch_id, "position": n, "user_id": "bob", "engagement_id": f"e{n}"} for n in range(2)]
        await db.execute(batch_items.insert(), items)
        new = [make.trace("bob", "e0", batch_id=batch_id), make.trace("bob", "e0", "rejected", reason="loop")]
        for trace in new:
            values = trace.model_dump(exclude={"versions"}) | {"batch_id": batch_id, "adapter": "user/bob"}
            await db.execute(traces.insert(), values)

    await store._database.write(write)
    return batch_id


async def test_a_pointer_that_moves_reads_the_traces_of_its_user_alone(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path}/s.db")
    async with store._database.snapshot() as db:
        pages = await db.exec_driver_sql("SELECT rootpage, name FROM sqlite_master WHERE tbl_name = 'traces'")
        names = {row.rootpage: row.name for row in pages}
        program = await db.exec_driver_sql("EXPLAIN UPDATE live_versions SET version = 1 WHERE tenant = 't'")
        opened = {names[step.p2] for step in program if step.opcode == "OpenRead" and step.p2 in names}
    await store.close()
    assert opened
    assert opened <= {"traces", "traces_of_user", "traces_counts_of_user", "traces_queue"}
