"""Replays: general questions with the base model's generic thinking and answer, generated once and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.database import Database, insert_new
from mindprint_server.store.tables import replays


@dataclass(frozen=True)
class Replay:
    """One rendered general question, with the base model's thinking and answer.

    `position` is the question's place in the set and identifies it. A stored replay is never replaced.
    """

    position: int
    prompt: str
    thinking: str
    answer: str


class ReplayRepository:
    """Stores replays by base model and version of the prompts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_all(self, base_digest: str, prompt_version: str) -> list[Replay]:
        """List the replays of a base model and a version of the prompts, ordered by position."""
        return await self._database.read(_list_all, base_digest, prompt_version)

    async def add(self, base_digest: str, prompt_version: str, new: Sequence[Replay]) -> list[Replay]:
        """Store those replays whose positions are free, and return all that are stored then.

        Two servers that store the same positions at once get the same replays back.
        """
        return await self._database.write(_add, base_digest, prompt_version, new)


async def _list_all(db: AsyncConnection, base_digest: str, prompt_version: str) -> list[Replay]:
    columns = replays.c.position, replays.c.prompt, replays.c.thinking, replays.c.answer
    mine = replays.c.base_digest == base_digest, replays.c.prompt_version == prompt_version
    rows = await db.execute(select(*columns).where(*mine).order_by(replays.c.position))
    return [Replay(*row) for row in rows]


async def _add(db: AsyncConnection, base_digest: str, prompt_version: str, new: Sequence[Replay]) -> list[Replay]:
    now = datetime.now(UTC)
    shared = {"base_digest": base_digest, "prompt_version": prompt_version, "created_at": now}
    # Insert in the order of positions, so that two calls with the same ones wait for each other and do not deadlock.
    if rows := [asdict(one) | shared for one in sorted(new, key=lambda one: one.position)]:
        await db.execute(insert_new(db, replays), rows)
    return await _list_all(db, base_digest, prompt_version)
