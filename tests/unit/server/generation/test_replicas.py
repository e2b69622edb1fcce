"""Two servers on one PostgreSQL share the work of batches, on the fake engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from databases import POSTGRES, new_database
from mindprint.types import Batch
from mindprint_server.app import create_app
from mindprint_server.generation.scheduler import Item
from mindprint_server.settings import Settings
from mindprint_server.store import clock
from mindprint_server.wiring import Services
from odd_batches import counted
from samples import engagement
from scripted import Scripted, serving

FAST: dict[str, Any] = {
    "candidates": 1,
    "batch_claim_ahead": 4,
    "batch_chunk_per_user": 4,
    "batch_max_in_flight": 4,
    "batch_poll_interval_s": 0.05,
}
NEVER_S = 3600.0


@dataclass
class Replica:
    """A server, a caller of it, and what its engine and its batches did."""

    services: Services
    http: httpx.AsyncClient
    go: asyncio.Event
    """While it is not set, engagements that were begun do not end."""
    worked: list[Item] = field(default_factory=list)
    """Engagements that were begun."""

    async def submit(self, *users: str, **request: Any) -> Batch:
        response = await self.http.post("/v1/batches", json={"users": list(users), **request})
        assert response.status_code == 201, response.text
        return Batch.model_validate(response.json())

    async def get(self, batch: Batch) -> Batch:
        return Batch.model_validate((await self.http.get(f"/v1/batches/{batch.id}")).json())

    async def cancel(self, batch: Batch) -> Batch:
        return Batch.model_validate((await self.http.post(f"/v1/batches/{batch.id}/cancel")).json())

    async def ended(self, *batches: Batch) -> list[Batch]:
        async def all_ended() -> bool:
            return all([(await self.get(batch)).state in ("done", "failed", "cancelled") for batch in batches])

        await until(all_ended)
        return [await self.get(batch) for batch in batches]

    def generated(self) -> float:
        return counted(self.services, "traces_generated", tenant="default")

    async def die(self) -> None:
        """Do nothing more for its claims, as if its process were killed."""
        await self.services.batches._claimer.stop()


Start = Callable[..., Awaitable[Replica]]


async def until(holds: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            found = holds()
            if found is True or (not isinstance(found, bool) and await found):
                return
            await asyncio.sleep(0.01)


@pytest.fixture
async def start(settings: Settings, base_folder: Path, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts servers on one database."""
    if POSTGRES == "off":
        pytest.skip("two servers need PostgreSQL")
    async with new_database("postgresql", tmp_path) as url, AsyncExitStack() as stack:
        count = 0

        async def start(**changes: Any) -> Replica:
            nonlocal count
            count += 1
            of_its_own = {"database_url": SecretStr(url), "data_dir": tmp_path / f"server{count}"}
            engine = Scripted(folder=base_folder, delay_s=0.002)
            services = await stack.enter_async_context(
                serving(settings.model_copy(update=FAST | of_its_own | changes), engine)
            )
            app = create_app(services.settings, services=services)
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
            replica = Replica(services, await stack.enter_async_context(http), asyncio.Event())
            replica.go.set()
            stack.callback(replica.go.set)
            process = services.batches._processor.process

            async def process_when_told(item: Item, *args: Any, **kwargs: Any) -> Any:
                replica.worked.append(item)
                await replica.go.wait()
                return await process(item, *args, **kwargs)

            services.batches._processor.process = process_when_told  # type: ignore[method-assign]
            return replica

        yield start


async def fill(at: Replica, count: int, *users: str) -> None:
    for user in users:
        await at.services.store.engagements.add(user, [engagement(n) for n in range(count)])


async def test_two_servers_share_two_batches_and_work_on_each_item_once(start: Start) -> None:
    a, b = await start(), await start()
    await fill(a, 12, "ann", "bob", "cat", "dan")
    batches = [await a.submit("ann", "bob"), await b.submit("cat", "dan", seed=3)]
    ended = await b.ended(*batches)
    assert [(batch.state, batch.error, batch.items, batch.done) for batch in ended] == [("done", None, 24, 24)] * 2
    assert set(Counter(a.worked + b.worked).values()) == {1}
    assert len(a.worked + b.worked) == 48
    assert a.worked, "A works too"
    assert b.worked, "B works too"
    stored = sum(batch.funnel.generated for batch in ended)
    assert a.generated() + b.generated() == stored, "nothing was generated in vain"
    for user in ("ann", "bob", "cat", "dan"):
        profiles = await a.services.store.profiles.list_versions(user)
        assert [(p.version, p.covers) for p in profiles] == [(1, 5), (2, 10)], "each is stored once"


async def test_claims_leave_work_for_the_other_server(start: Start) -> None:
    a = await start()
    a.go.clear()
    await fill(a, 12, "ann", "bob")
    batch = await a.submit("ann", "bob")
    await until(lambda: len(a.worked) == 4)
    assert len(a.services.batches.held) == 8, "as many as it works on, and `batch_claim_ahead`"
    b = await start()
    await until(lambda: len(b.worked) >= 16)
    a.go.set()
    assert (await a.ended(batch))[0].state == "done"
    assert set(Counter(a.worked + b.worked).values()) == {1}


@pytest.mark.parametrize("how", [{"batch_listen": False}, {"batch_poll_interval_s": NEVER_S}])
async def test_cancel_at_one_server_stops_the_other(start: Start, how: dict[str, Any]) -> None:
    """The first way is to look at the batches, the second to be told."""
    a = await start(**how)
    await fill(a, 12, "ann", "bob")
    b = await start(**how)
    await b.die()
    a.go.clear()
    batch = await a.submit("ann", "bob")
    await until(lambda: len(a.worked) == 4)
    cancelled = await b.cancel(batch)
    await until(lambda: not a.services.batches.held)
    a.go.set()
    assert len(a.worked) == 4, "no further item was begun"
    assert (await a.get(batch)).state == "cancelled"
    assert (await a.get(batch)).done == cancelled.done == 0
    assert (await a.services.store.traces.find(batch=batch.id), a.generated()) == ([], 0)
    assert counted(a.services, "items_dropped", reason="ended") == 8


async def test_result_after_a_cancel_elsewhere_is_dropped_even_if_nobody_told_the_server(start: Start) -> None:
    a, b = await start(), await start()
    await b.die()
    await fill(a, 12, "ann")
    a.go.clear()
    batch = await a.submit("ann")
    await until(lambda: len(a.worked) == 4)
    await a.die()
    await b.cancel(batch)
    a.go.set()
    await until(lambda: counted(a.services, "items_dropped", reason="ended") == 8)
    assert await a.services.store.traces.find(batch=batch.id) == []


@pytest.mark.parametrize("how", [{"batch_listen": False}, {"batch_poll_interval_s": NEVER_S}])
async def test_batch_that_was_submitted_at_one_server_is_picked_up_by_the_other(
    start: Start, how: dict[str, Any]
) -> None:
    a, b = await start(**how), await start(**how)
    await b.die()
    await fill(a, 6, "ann")
    batch = await b.submit("ann")
    assert [(e.state, e.done) for e in await b.ended(batch)] == [("done", 6)]
    assert (len(a.worked), len(b.worked)) == (6, 0)


async def test_items_of_a_killed_server_are_finished_by_the_other(start: Start) -> None:
    short = {"batch_claim_ttl_s": 0.5, "batch_claim_ahead": 64}
    a = await start(**short)
    a.go.clear()
    await fill(a, 12, "ann")
    batch = await a.submit("ann")
    await until(lambda: len(a.services.batches.held) == 12)
    await until(lambda: len(a.worked) == 4)
    await a.die()
    b = await start(**short)
    assert [(e.state, e.done) for e in await b.ended(batch)] == [("done", 12)]
    assert len(b.worked) == 12
    stored = await b.services.store.traces.find(batch=batch.id)
    a.go.set()  # it was only slow: what it writes now is dropped
    await until(lambda: not a.services.batches.held)
    assert await b.services.store.traces.find(batch=batch.id) == stored
    assert (await b.get(batch)).funnel.generated == len(stored)


async def test_server_that_stops_gives_its_items_back(start: Start) -> None:
    forever = {"batch_claim_ttl_s": NEVER_S}
    a, b = await start(**forever), await start(**forever)
    await b.die()
    a.go.clear()
    await fill(a, 12, "ann")
    batch = await a.submit("ann")
    await until(lambda: len(a.worked) == 4)
    await a.services.batches.stop()
    b.services.batches._claimer.start()
    assert [(e.state, e.done) for e in await b.ended(batch)] == [("done", 12)]
    assert len(b.worked) == 12


async def test_server_drops_the_items_that_another_one_took_over(start: Start) -> None:
    a, b = await start(), await start()
    await b.die()
    a.go.clear()
    await fill(a, 8, "ann")
    batch = await a.submit("ann")
    await until(lambda: len(a.worked) == 4)
    await a.die()
    claims, now = b.services.store.batch_claims, clock.process_time() + timedelta(hours=1)
    taken = await claims.claim(batch.id, b.services.batches._claimer.owner, limit=6, ttl_s=60, now=now)
    assert len(taken) == 6
    assert len(a.services.batches.held) == 8
    await a.services.batches._claimer._extend()
    assert len(a.services.batches.held) == 2
    assert counted(a.services, "items_dropped", reason="lost") == 6
    a.go.set()
    await until(lambda: not a.services.batches.held)
    assert (await b.get(batch)).done == 2
    assert len(a.worked) == 6, "four that were lost while they ran, and the two that it kept"


async def test_heartbeats_keep_no_transaction_open(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    a = await start(batch_claim_ttl_s=0.3, batch_poll_interval_s=NEVER_S)
    a.go.clear()
    await fill(a, 8, "ann")
    beats, extend = 0, a.services.store.batch_claims.extend

    async def counted_extend(*args: Any, **kwargs: Any) -> Any:
        nonlocal beats
        lost = await extend(*args, **kwargs)
        beats += 1
        return lost

    monkeypatch.setattr(a.services.store.batch_claims, "extend", counted_extend)
    await a.services.readiness.stop()  # it asks the database too
    await a.submit("ann")
    await until(lambda: len(a.worked) == 4)
    pool: Any = a.services.store._database.engine.pool
    for beat in range(2, 4):
        await until(lambda beat=beat: beats >= beat)
        await until(lambda: pool.checkedout() == 0)
