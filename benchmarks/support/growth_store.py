"""Stores of a wanted size: users with engagements, traces of one open batch, and some versions in service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest, Check, LeaseRequest, Manifest, ParityItem, Version
from mindprint.types.keys import AdapterKey
from mindprint_server.store import ClaimPolicy, Store
from mindprint_server.store.tables import batch_items, engagements, traces, users

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS_AT_ONCE = 5000
CANDIDATES = 2
"""Traces of an engagement: a rejected one, then an accepted one."""
REASONS = ("wrong_answer", "low_gain", "leak", "loop")
WITH_VERSION = 20
"""Every so many users, one has a live version."""
MAX_VERSIONS = 200
OPEN_ITEMS = 0.1
"""Share of the engagements whose items are not done."""


@dataclass(frozen=True)
class StoreSize:
    """How much a store holds."""

    users: int
    traces: int

    def __str__(self) -> str:
        return f"{self.users:,} users, {self.traces:,} traces"

    @property
    def engagements(self) -> int:
        """Engagements of each user."""
        return max(1, self.traces // self.users // CANDIDATES)


async def fill(store: Store, size: StoreSize) -> str:
    """Fill an empty store; return the id of its batch."""
    batch, _ = await store.batches.add(BatchRequest(), [], max_open=10)
    await store._database.write(_insert_rows, size, batch.id)
    for number in range(0, min(size.users, MAX_VERSIONS * WITH_VERSION), WITH_VERSION):
        await _publish(store, _user(number))
    return batch.id


async def _insert_rows(db: AsyncConnection, size: StoreSize, batch_id: str) -> None:
    kinds: tuple[tuple[Table, Iterator[dict[str, Any]]], ...] = (
        (users, ({"id": _user(number), "created_at": START} for number in range(size.users))),
        (engagements, _engagements(size)),
        (batch_items, _items(size, batch_id)),
        (traces, _traces(size, batch_id)),
    )
    for table, rows in kinds:
        while part := list(islice(rows, ROWS_AT_ONCE)):
            await db.execute(insert(table), part)


def _user(number: int) -> str:
    return f"u{number:05d}"


def _engagements(size: StoreSize) -> Iterator[dict[str, Any]]:
    for number in range(size.users):
        for place in range(size.engagements):
            yield {
                "user_id": _user(number),
                "id": f"e{place:04d}",
                "prompt": f"Would you take number {place}, and why?",
                "response": "yes",
                "occurred_at": START + timedelta(minutes=place),
                "choices": ["yes", "no"],
                "created_at": START,
            }


def _is_open(size: StoreSize, place: int) -> bool:
    return place >= size.engagements * (1 - OPEN_ITEMS)


def _items(size: StoreSize, batch_id: str) -> Iterator[dict[str, Any]]:
    for number in range(size.users):
        for place in range(size.engagements):
            yield {
                "batch_id": batch_id,
                "position": number * size.engagements + place,
                "user_id": _user(number),
                "engagement_id": f"e{place:04d}",
                "outcome": None if _is_open(size, place) else "accepted",
            }


def _traces(size: StoreSize, batch_id: str) -> Iterator[dict[str, Any]]:
    """Yield traces in the order in which a batch writes them: a user after the other."""
    for number in range(size.users):
        for place in range(size.engagements):
            for candidate in range(CANDIDATES):
                is_accepted = candidate == CANDIDATES - 1
                count = (number * size.engagements + place) * CANDIDATES + candidate
                yield {
                    "id": f"{count:012d}",
                    "user_id": _user(number),
                    "engagement_id": f"e{place:04d}",
                    "batch_id": batch_id,
                    "adapter": AdapterKey.user(_user(number)),
                    "mode": "personal",
                    "query": "Would you take it?",
                    "prompt": "What this person was asked before. " * 20,
                    "thinking": f"They took number {count} before, so they take it again.",
                    "answer": "yes",
                    "verdict": "accepted" if is_accepted else "rejected",
                    "reason": None if is_accepted else REASONS[count // CANDIDATES % len(REASONS)],
                    "scores": {"gain": 0.1},
                    "state": "waiting" if is_accepted else "stored",
                    "finish": "stop",
                    "provenance": {"model": "base", "saw_answer": False},
                    "created_at": START,
                }


async def _publish(store: Store, user_id: str) -> None:
    """Train and publish all traces of a user."""
    key = AdapterKey.user(user_id)
    request = LeaseRequest(owner="growth", adapter=key, max_traces=10_000)
    lease = await store.leases.claim(request, ClaimPolicy(max_attempts=3))
    if lease is None:
        raise RuntimeError(f"{key} has no traces")
    number, _ = await store.versions.allocate(key)
    manifest = Manifest(
        adapter=key, base_digest="base", weights_sha256="0" * 64, trace_ids=lease.trace_ids, samples={"slow": 1},
        settings={"rank": 8}, losses={"first": 2.0, "last": 1.0}, tokens=100, seconds=1.5, trainer="growth",
        parity_items=[ParityItem(prompt_ids=[1], target_ids=[2], logprobs=[-1.0], base_logprobs=[-2.0])],
    )  # fmt: skip
    version = Version(
        adapter=key, version=number, state="standby", digest="d", base_digest="base", traces=len(lease.trace_ids),
        checks=[Check(name="gain", passed=True, detail="")], manifest=manifest, created_at=START,
    )  # fmt: skip
    await store.publication.publish(lease.id, version)
