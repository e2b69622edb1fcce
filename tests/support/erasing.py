"""Erasures in the store: each step is done, killed after its commit and done again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Text, cast, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest, Erasure, Receipt
from mindprint_server.store import (
    ErasureTarget,
    Store,
)
from mindprint_server.store.erasures import chunks
from mindprint_server.store.tables import metadata
from mindprint_server.tenancy import in_all_tenants

CANARY = "CANARY-7f3a"


def user(name: str = "ann") -> ErasureTarget:
    return ErasureTarget(kind="user", user_id=name)


def one(engagement: str, name: str = "ann") -> ErasureTarget:
    return ErasureTarget(kind="engagement", user_id=name, engagement_id=engagement)


def signed(receipt: Receipt) -> Receipt:
    return receipt.model_copy(update={"digest": "d", "signature": "s"})


async def run(store: Store, target: ErasureTarget) -> Erasure:
    """Do every step twice, as after a kill between its commit and the note of it; then the whole job again."""
    erasure = await store.erasures.request(target)
    for _ in range(2):
        for _ in range(2):
            plan = await store.erasures.collect(erasure.id)
        for chunk in chunks(plan, 2) if plan else ():
            for _ in range(2):
                await store.erasures.delete(erasure.id, chunk)
        for _ in range(2):
            await store.erasures.seal(erasure.id)
        for _ in range(2):
            await store.erasures.finish(erasure.id, signed)
    return await store.erasures.get(erasure.id)


def receipt_of(erasure: Erasure) -> Receipt:
    assert erasure.state == "done"
    assert erasure.receipt is not None
    return erasure.receipt


async def everything(store: Store) -> dict[str, str]:
    """All rows of all tables as text, by table."""

    async def dump(db: AsyncConnection) -> dict[str, str]:
        return {
            table.name: "\n".join(
                str(tuple(row)) for row in await db.execute(select(*(cast(column, Text) for column in table.c)))
            )
            for table in metadata.sorted_tables
        }

    with in_all_tenants():
        return await store._database.read(dump)


async def planted(store: Store, make: Any, name: str = "ann") -> None:
    """A user with a canary in everything that can hold text."""
    items = [make.engagement(n, prompt=f"{CANARY} p{n}", response=CANARY, reason=CANARY) for n in range(4)]
    await store.engagements.add(name, items)
    await store.profiles.add(make.profile(name, text=CANARY))
    batch, _ = await store.batches.add(BatchRequest(users=[name]), [(name, f"e{n}") for n in range(4)], max_open=9)
    await make.finish(
        store, batch.id, name, "e0", traces=[make.trace(name, thinking=f"{CANARY} 0", batch_id=batch.id)],
        outcome="accepted",
    )  # fmt: skip
    for n in (1, 2):
        await store.traces.add(make.trace(name, f"e{n}", thinking=f"{CANARY} {n}", prompt=CANARY, query=CANARY))
