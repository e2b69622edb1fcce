"""Replay: general questions that the base model answered with generic thinking, kept so that they are written once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.database import insert_new
from mindprint_server.store.tables import replays


@dataclass(frozen=True)
class Replay:
    """One question of the general set, rendered, with the base model's thinking and answer.

    `position` is its place in the set and names it: one that is stored is never replaced.
    """

    position: int
    prompt: str
    thinking: str
    answer: str


async def of(db: AsyncConnection, base_digest: str, prompt_version: str) -> list[Replay]:
    columns = replays.c.position, replays.c.prompt, replays.c.thinking, replays.c.answer
    mine = replays.c.base_digest == base_digest, replays.c.prompt_version == prompt_version
    rows = await db.execute(select(*columns).where(*mine).order_by(replays.c.position))
    return [Replay(*row) for row in rows]


async def add(db: AsyncConnection, base_digest: str, prompt_version: str, new: Sequence[Replay]) -> list[Replay]:
    now = datetime.now(UTC)
    shared = {"base_digest": base_digest, "prompt_version": prompt_version, "created_at": now}
    # In the order of their positions, so that two calls with the same ones wait for each other instead of both.
    if rows := [asdict(one) | shared for one in sorted(new, key=lambda one: one.position)]:
        await db.execute(insert_new(db, replays), rows)
    return await of(db, base_digest, prompt_version)
