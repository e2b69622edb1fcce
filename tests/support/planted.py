"""A user with a canary word in everything that is stored, and the erasure of it, on a whole server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select

from mindprint.types import BatchRequest, Engagement, Erasure, Profile
from mindprint_server.store import (
    ErasureTarget,
)
from mindprint_server.store.tables import publications
from mindprint_server.wiring import Services
from samples import START, engagement

CANARY = "zanzibarquokka"
ANN = ErasureTarget(kind="user", user_id="ann")


async def erased(services: Services, target: ErasureTarget = ANN) -> Erasure:
    erasure = await services.erasures.request(target)
    await services.erasures.run_open()
    done = await services.store.erasures.get(erasure.id)
    assert done.receipt is not None
    return done


async def plant(services: Services) -> None:
    """A user whose engagements, traces and profile hold a canary, also as prompts of later traces."""
    events = [
        Engagement(id=f"c{n}", prompt=f"{CANARY} prompt {n} " + "long " * (400 * (n % 3)), response=f"{CANARY} yes {n}",
                   reason=CANARY, occurred_at=START.replace(month=2, day=1 + n))
        for n in range(8)
    ]  # fmt: skip
    await services.store.engagements.add("ann", events)
    await services.store.engagements.add("bob", [engagement(n) for n in range(8)])
    await services.store.profiles.add(
        Profile(user_id="ann", version=0, text=f"ann says {CANARY}", tokens=3, covers=1, covers_until=START,
                prompt_version="1", base_digest="b", created_at=START)
    )  # fmt: skip
    batch, _ = await services.batches.submit(BatchRequest(seed=1))
    async for state in services.batches.watch(batch.id):
        assert state.state != "failed", state.error


def files_with(folder: Path, word: str) -> list[str]:
    return [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and word.encode() in file.read_bytes()
    ]


async def publication_of(services: Services, adapter: str) -> str:
    """The id of the publication of an adapter's first version."""

    async def find(db: Any) -> str:
        return str(await db.scalar(select(publications.c.id).where(publications.c.adapter == adapter)))

    return await services.store._database.read(find)
