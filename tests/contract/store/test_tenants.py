"""Tenants: no statement reads or changes a row of another tenant, also where both use the same ids."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Select, UniqueConstraint, delete, func, join, select, true, update
from sqlalchemy.exc import CompileError
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest
from mindprint_server.exceptions import LimitExceeded
from mindprint_server.store import RecordNotFound, Store, StoreFailed, tenants
from mindprint_server.store.tables import live_versions, metadata, traces, users
from mindprint_server.store.tenant_scope import JoinAcrossTenants
from mindprint_server.tenancy import NoTenant, in_all_tenants, in_no_tenant, in_tenant

EXEMPT = {"tenants", "api_keys", "replays", "signing_keys", "clock_marks"}
"""Tables that are the server's own. A key is found before its tenant is known. Replays are answers of the base model to
general questions, the same for all tenants."""


@pytest_asyncio.fixture(loop_scope="session")
async def acme(store: Store) -> str:
    await store._database.write(tenants.ensure, "acme")
    return "acme"


def test_every_other_table_has_a_tenant_first_in_every_key() -> None:
    for table in metadata.sorted_tables:
        if table.name in EXEMPT:
            continue
        assert not table.c.tenant.nullable, table.name
        if table.name != "version_numbers":  # its ids are the engine's, which all tenants share
            assert next(iter(table.primary_key)).name == "tenant", table.name
        for key in table.foreign_key_constraints:
            assert key.column_keys[0] == "tenant", key.name
        for index in table.indexes:
            assert index.columns.keys()[0] == "tenant", index.name
        for unique in table.constraints:
            if isinstance(unique, UniqueConstraint):
                assert next(iter(unique.columns)).name == "tenant", unique.name


async def test_two_tenants_have_the_same_ids_and_see_their_own(store: Store, acme: str, make: Any) -> None:
    mine = await make.trained(store)
    with in_tenant(acme):
        with pytest.raises(RecordNotFound):
            await store.users.get("ann")
        assert await store.traces.find() == []
        assert await store.adapters.list_page() == []
        assert (await store.funnel.get()).generated == 0
        assert await store.users.list_others("bob", limit=9) == []
        theirs = await make.trained(store)
        assert theirs.adapter == mine.adapter
        assert theirs.version == mine.version
        assert theirs.engine_id != mine.engine_id
        assert len(await store.traces.find()) == 2
        await store.live_versions.set_live("user/ann", None)
    assert (await store.live_versions.get("user/ann")).live == mine
    assert len(await store.traces.find()) == 2
    with in_tenant(acme):
        assert (await store.live_versions.get("user/ann")).live is None


async def test_another_tenants_ids_are_unknown(store: Store, acme: str, make: Any) -> None:
    lease = await make.leased(store)
    (trace, *_) = await store.traces.find()
    with in_tenant(acme):
        for call in (
            store.traces.get(trace.id),
            store.leases.get(lease.id),
            store.leases.heartbeat(lease.id, 60),
            store.users.get("ann"),
            store.engagements.list_page("ann"),
            store.cohorts.add_members("cooks", ["ann"]),
            store.versions.get("user/ann", 1),
            store.batches.get("b"),
            store.traces.requeue(user_id="ann"),
        ):
            with pytest.raises(RecordNotFound):
                await call
        assert await store.traces.requeue([trace.id]) == 0
    assert (await store.leases.get(lease.id)).deadline == lease.deadline


async def test_cohorts_and_locks_are_a_tenants_own(store: Store, acme: str, make: Any) -> None:
    await make.cohort(store, "cooks", "ann")
    with in_tenant(acme):
        assert [cohort.name for cohort in await store.cohorts.list_page()] == ["everyone"]
        await make.user(store, "ann")
        assert (await store.users.get("ann")).cohort == "everyone"
        await store.cohorts.put("cooks", "theirs")
        await store.cohorts.delete("cooks")
    assert (await store.users.get("ann")).cohort == "cooks"


async def test_an_idempotency_key_is_a_tenants_own(store: Store, acme: str, make: Any) -> None:
    request = BatchRequest(users=None, mode="personal", idempotency_key="k")
    mine, _ = await store.batches.add(request, [], max_open=1)
    with in_tenant(acme):
        theirs, is_new = await store.batches.add(request, [], max_open=1)
        assert is_new
    assert mine.id != theirs.id
    assert {tenant for tenant, _ in await store.batches.list_open()} == {"default", "acme"}


async def test_bounds_count_the_tenant_or_all_tenants(store: Store, acme: str, make: Any) -> None:
    await make.trained(store)
    await store.batches.add(BatchRequest(), [], max_open=1, max_open_total=2)
    with in_tenant(acme):
        assert (await store.engagements.count_all(), await store.adapters.count()) == (0, 0)
        assert not await store.adapters.exists("user/ann")
        await store.batches.add(BatchRequest(), [], max_open=1, max_open_total=2)
        with pytest.raises(LimitExceeded) as refused:
            await store.batches.add(BatchRequest(), [], max_open=2, max_open_total=2)
        assert refused.value.code == "server_queue_full"
        with pytest.raises(LimitExceeded) as refused:
            await store.batches.add(BatchRequest(), [], max_open=1, max_open_total=3)
        assert refused.value.code == "batch_queue_full"
    assert (await store.engagements.count_all(), await store.adapters.count()) == (1, 1)
    assert await store.adapters.exists("user/ann")


async def test_without_a_tenant_nothing_is_read_or_written(store: Store, make: Any) -> None:
    with in_no_tenant():
        for call in (store.users.list_page(), store.traces.find(), make.user(store, "ann")):
            with pytest.raises((NoTenant, StoreFailed)):
                await call
        assert await store.tenants.list_all() == ["default"]


def _join() -> Select[Any]:
    return select(func.count()).select_from(traces.join(users, users.c.id == traces.c.user_id))


def _comma() -> Select[Any]:
    return select(func.count()).where(users.c.id == traces.c.user_id)


def _outer() -> Select[Any]:
    return select(func.count()).select_from(
        traces.outerjoin(live_versions, live_versions.c.adapter == traces.c.adapter)
    )


@pytest.mark.parametrize("query", [_join, _comma])
async def test_across_tenants_nothing_is_joined(store: Store, query: Any) -> None:
    async def run(db: AsyncConnection) -> Any:
        return await db.scalar(query())

    with in_all_tenants(), pytest.raises(JoinAcrossTenants):
        await store._database.read(run)


@pytest.mark.parametrize("query", [_join, _comma, _outer])
async def test_a_join_keeps_to_the_tenant(store: Store, acme: str, make: Any, query: Any) -> None:
    async def run(db: AsyncConnection) -> Any:
        return await db.scalar(query())

    await make.trained(store)
    with in_tenant(acme):
        await make.trained(store)
        assert await store._database.read(run) == 2
    assert await store._database.read(run) == 2


@pytest.mark.parametrize(
    "change",
    [
        update(traces).where(users.c.id == traces.c.user_id).values(reason="x"),
        delete(traces).where(users.c.id == traces.c.user_id),
    ],
)
async def test_a_change_that_reads_a_second_table_is_refused(store: Store, change: Any) -> None:
    async def run(db: AsyncConnection) -> Any:
        return await db.execute(change)

    with pytest.raises((JoinAcrossTenants, CompileError)):  # the second: SQLite has no DELETE ... USING
        await store._database.write(run)


async def test_aliases_and_subqueries_keep_to_the_tenant(store: Store, acme: str, make: Any) -> None:
    other = users.alias()
    inner = select(users.c.id).where(users.c.id == other.c.id).exists()
    ranked = select(users.c.id, func.row_number().over(order_by=users.c.id).label("rank")).subquery()
    union = select(users.c.id).union_all(select(other.c.id))
    everyone = select(users.c.id).cte("everyone")
    third = users.alias()

    async def run(db: AsyncConnection) -> Any:
        return [
            len((await db.scalars(query)).all())
            for query in (
                select(other.c.id).where(inner),
                select(ranked.c.id),
                union,
                select(everyone.c.id),
                select(other.c.id).select_from(users.join(other, other.c.id == users.c.id)),
                select(third.c.id).select_from(ranked.join(join(other, third, true()), true())),
            )
        ]

    await make.user(store, "ann")
    with in_tenant(acme):
        await make.user(store, "ann")
        await make.user(store, "bob")
    assert await store._database.read(run) == [1, 1, 2, 1, 1, 1]
