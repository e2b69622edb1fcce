"""A user who is erased while work is going on leaves nothing behind, on the fake engine."""

from __future__ import annotations

import asyncio
from collections import Counter

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest
from mindprint_server.store import tables
from mindprint_server.wiring import Services
from odd_batches import NO_BOUNDS, Open, counted, ended, good, likes_yes
from samples import engagement
from scripted import Scripted


async def erase(services: Services, user: str) -> int:
    """Deletes all rows of a user; returns how many items of batches were still to do."""

    async def work(db: AsyncConnection) -> int:
        items = tables.batch_items
        query = select(func.count()).where(items.c.user_id == user, items.c.outcome.is_(None))
        left = (await db.execute(query)).scalar_one()
        for table in (items, tables.traces, tables.profiles, tables.engagements):
            await db.execute(table.delete().where(table.c.user_id == user))
        await db.execute(tables.users.delete().where(tables.users.c.id == user))
        return left

    return await services.store._database.write(work)


async def rows_of(services: Services, user: str) -> Counter[str]:
    async def work(db: AsyncConnection) -> Counter[str]:
        found: Counter[str] = Counter()
        for table in tables.metadata.sorted_tables:
            column = table.c.get("id" if table.name == "users" else "user_id")
            if column is not None:
                query = select(func.count()).select_from(table).where(column == user)
                found[table.name] = (await db.execute(query)).scalar_one()
        return +found

    return await services.store._database.read(work)


async def given_up(services: Services) -> float:
    """The items that came to nothing. A batch is done once no row is open; what then still runs is dropped."""
    while services.batches.held:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return counted(services, "items_skipped", reason="erased") + counted(services, "items_dropped", reason="ended")


async def test_a_user_erased_while_traces_are_written_leaves_nothing(serve: Open) -> None:
    services = await serve(Scripted(delay_s=0.01), batch_max_in_flight=3)
    await services.store.engagements.add("ann", [engagement(n) for n in range(12)])
    await services.store.engagements.add("bob", [engagement(n) for n in range(6)])
    batch, _ = await services.batches.submit(BatchRequest(users=["ann", "bob"]))
    async for state in services.batches.watch(batch.id):
        if state.done >= 3:
            break
    left = await erase(services, "ann")
    assert left > 3, "some are under way, others have not begun"
    batch = await ended(services, batch)
    assert (batch.state, batch.error) == ("done", None)
    assert batch.items == batch.done == 6, "bob's"
    assert await rows_of(services, "ann") == {}
    assert await given_up(services) == left, "each item once"


async def test_a_user_erased_while_its_profile_is_written_leaves_nothing(serve: Open) -> None:
    engine = Scripted(delay_s=0.2)
    services = await serve(engine)
    await services.store.engagements.add("ann", [engagement(n) for n in range(12)])
    await services.store.engagements.add("bob", [engagement(n) for n in range(3)])
    batch, _ = await services.batches.submit(BatchRequest())
    await engine.begun.wait()
    left = await erase(services, "ann")
    batch = await ended(services, batch)
    assert (batch.state, batch.error) == ("done", None)
    assert batch.items == batch.done == 3
    assert await rows_of(services, "ann") == {}
    assert await given_up(services) == left == 12


async def test_a_neighbour_erased_meanwhile_harms_nobody(serve: Open) -> None:
    services = await serve(Scripted(likes_yes, good, delay_s=0.005), batch_max_in_flight=1, **NO_BOUNDS)
    await services.store.engagements.add("ann", [engagement(n, choices=["yes", "no"]) for n in range(12)])
    await services.store.engagements.add("bob", [engagement(n) for n in range(6)])
    batch, _ = await services.batches.submit(BatchRequest(users=["ann"]))
    async for state in services.batches.watch(batch.id):
        if state.done >= 3:
            break
    await erase(services, "bob")
    batch = await ended(services, batch)
    assert (batch.state, batch.error, batch.done) == ("done", None, 12)
