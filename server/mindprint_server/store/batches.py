"""Batches: durable jobs. Each item is stored on its own, so that a batch continues after a restart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Select, func, select, tuple_, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import Batch, BatchRequest, BatchState, Funnel, Mode, Trace
from mindprint_server.store import row_counts, traces
from mindprint_server.store.accepted_texts import reject_repeated
from mindprint_server.store.batch_claims import end_if_complete
from mindprint_server.store.database import Database, advisory_lock
from mindprint_server.store.erasing import find_refused, without_erased
from mindprint_server.store.exceptions import IdempotencyConflict, QueueFull, RecordNotFound, ServerQueueFull
from mindprint_server.store.ids import new_id
from mindprint_server.store.notifications import notify
from mindprint_server.store.states import OPEN_STATES
from mindprint_server.store.tables import batch_items, batches
from mindprint_server.tenancy import in_all_tenants

IN_OTHER_BATCH = "in_other_batch"
"""Outcome of an item that was not done in another open batch when this one was planned."""


@dataclass(frozen=True)
class ItemResult:
    """What came of one item of a batch."""

    batch_id: str
    user_id: str
    engagement_id: str
    outcome: str
    """`accepted`, `rejected`, or the reason why the item was skipped."""
    traces: Sequence[Trace] = field(default=())
    read_epoch: int | None = None
    """The tenant's erasure epoch before the user's history was read."""


DropReason = Literal["gone", "ended", "lost"]
"""Why a result is not stored: its user, engagement or batch is gone; its batch has ended; another server holds the
item."""


class DroppedResult(NamedTuple):
    """A result that was not stored."""

    result: ItemResult
    reason: DropReason


class BatchRepository:
    """Stores batches and the progress of their items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self,
        request: BatchRequest,
        items: Sequence[tuple[str, str]],
        *,
        max_open: int,
        max_open_total: int | None = None,
        api_key: str | None = None,
    ) -> tuple[Batch, bool]:
        """Queue a batch, or return the earlier one with the same idempotency key.

        Items that another open batch of the same mode has not done yet are skipped as `in_other_batch`. Items whose
        engagements are being erased, or were erased since, are left out.

        Args:
            request: What the caller asked for.
            items: (user id, engagement id) in the order in which they are to be worked on.
            max_open: Maximum number of batches that are queued or running.
            max_open_total: The same over all tenants; None: no bound.
            api_key: Id of the key that starts the batch, whose quotas hold for it; None: none.

        Returns:
            The batch, and True if it is new.

        Raises:
            IdempotencyConflict: The key came with another request before.
            QueueFull: `max_open` batches are queued or running, or `max_open_total` of all tenants.
        """
        # The tenant's statements do not see other tenants: count before. Calls at the same time may exceed the bound.
        with in_all_tenants():
            is_full = max_open_total is not None and await self._database.read(_count_open) >= max_open_total
        exceeded_total = max_open_total if is_full else None
        return await self._database.write(_add, request, items, max_open, exceeded_total, api_key)

    async def get(self, batch_id: str) -> Batch:
        """Return a batch with its progress."""
        return await self._database.read(_get, batch_id)

    async def list_newest(self, limit: int = 100, *, after: str | None = None) -> list[Batch]:
        """List at most `limit` batches, newest first.

        Args:
            limit: Maximum number of batches.
            after: Last id of the previous page; None starts with the newest.
        """
        return await self._database.read(_list_newest, limit, after)

    async def list_open(self) -> list[tuple[str, str]]:
        """List (tenant, batch id) of the queued and running batches of all tenants, oldest first."""
        with in_all_tenants():
            return await self._database.read(_list_open)

    async def finish(self, batch_id: str, state: BatchState, error: str | None = None) -> None:
        """End an open batch in `state`; a batch that has ended does not change."""
        await self._database.write(_finish, batch_id, state, error)

    async def cancel(self, batch_id: str) -> Batch:
        """Cancel an open batch and return it; a batch that has ended does not change."""
        return await self._database.write(_finish, batch_id, "cancelled", None)

    async def finish_items(
        self, done: Sequence[ItemResult], seconds: Mapping[str, float], *, owner: str | None = None
    ) -> list[DroppedResult]:
        """Store the traces, outcomes and counts of many items in one commit, and end batches that are complete.

        An item that was done before does not change.

        Args:
            done: Results of items, also of several batches.
            seconds: Working time to add, in seconds, by batch id.
            owner: The server that must hold the items; None: it does not matter who does.

        Returns:
            The results of which nothing was stored, also because the user's data was erased meanwhile. Those of items
            that were done before are not among them.
        """
        return await self._database.write(_finish_items, done, seconds, owner)


async def _add(
    db: AsyncConnection,
    request: BatchRequest,
    items: Sequence[tuple[str, str]],
    max_open: int,
    exceeded_total: int | None,
    api_key: str | None,
) -> tuple[Batch, bool]:
    # Without this lock, two calls at the same time could both count one batch less than the limit.
    await advisory_lock(db, "batches")
    if request.idempotency_key is not None:
        key = select(batches).where(batches.c.idempotency_key == request.idempotency_key)
        for batch in await _load(db, key):
            if batch.request != request:
                raise IdempotencyConflict(request.idempotency_key)
            return batch, False
    if await _count_open(db) >= max_open:
        raise QueueFull(max_open)
    if exceeded_total is not None:
        raise ServerQueueFull(exceeded_total)
    id = new_id()
    row = {"id": id, "state": "queued", "request": request.model_dump(mode="json"), "created_at": datetime.now(UTC)}
    await db.execute(batches.insert(), row | {"idempotency_key": request.idempotency_key, "api_key": api_key})
    # An item that came in beside an erasure would keep it from deleting the engagement.
    if plan := await without_erased(db, dict.fromkeys(items)):
        elsewhere = await _pending_elsewhere(db, id, request.mode)
        await db.execute(
            batch_items.insert(),
            [
                {
                    "batch_id": id,
                    "position": position,
                    "user_id": user_id,
                    "engagement_id": engagement_id,
                    "outcome": IN_OTHER_BATCH if (user_id, engagement_id) in elsewhere else None,
                }
                for position, (user_id, engagement_id) in enumerate(plan)
            ],
        )
    await notify(db, id)
    return await _get(db, id), True


async def _pending_elsewhere(db: AsyncConnection, id: str, mode: Mode) -> set[tuple[str, str]]:
    """Return (user id, engagement id) of the items that other open batches of this mode have not done yet."""
    query = (
        select(batch_items.c.user_id, batch_items.c.engagement_id)
        .join(batches, batches.c.id == batch_items.c.batch_id)
        .where(
            batches.c.state.in_(OPEN_STATES),
            batches.c.id != id,
            batches.c.request["mode"].as_string() == mode,
            batch_items.c.outcome.is_(None),
        )
    )
    return {(user_id, engagement_id) for user_id, engagement_id in await db.execute(query)}


async def _get(db: AsyncConnection, id: str) -> Batch:
    found = await _load(db, select(batches).where(batches.c.id == id))
    if not found:
        raise RecordNotFound("batch", id)
    return found[0]


async def _list_newest(db: AsyncConnection, limit: int, after: str | None) -> list[Batch]:
    older = [] if after is None else [batches.c.id < after]
    return await _load(db, select(batches).where(*older).order_by(batches.c.id.desc()).limit(limit))


async def _list_open(db: AsyncConnection) -> list[tuple[str, str]]:
    query = select(batches.c.tenant, batches.c.id).where(batches.c.state.in_(OPEN_STATES)).order_by(batches.c.id)
    return [(tenant, id) for tenant, id in await db.execute(query)]


async def _count_open(db: AsyncConnection) -> int:
    return (await db.execute(select(func.count()).where(batches.c.state.in_(OPEN_STATES)))).scalar_one()


async def _finish(db: AsyncConnection, id: str, state: BatchState, error: str | None) -> Batch:
    ended = {"state": state, "error": error, "waiting_for": None, "finished_at": datetime.now(UTC)}
    if await _change(db, id, batches.c.state.in_(OPEN_STATES), **ended):
        await notify(db, id)
    return await _get(db, id)


async def _finish_items(
    db: AsyncConnection, done: Sequence[ItemResult], seconds: Mapping[str, float], owner: str | None
) -> list[DroppedResult]:
    open_ids = await _lock_open(db, {item.batch_id for item in done})
    fresh, dropped = await _sort_out(db, done, open_ids, owner)
    written: dict[str, list[Sequence[Trace]]] = defaultdict(list)
    for item, checked in await _checked(db, fresh):
        written[item.batch_id].append(checked)
    await traces.insert(db, [trace for items in written.values() for item in items for trace in item])
    for id in sorted({*written, *seconds}):
        await _change(db, id, **_added(written[id], seconds.get(id, 0.0)))
    for id in sorted(open_ids):
        await end_if_complete(db, id)
    return dropped


async def _sort_out(
    db: AsyncConnection, done: Sequence[ItemResult], open_ids: Collection[str], owner: str | None
) -> tuple[list[ItemResult], list[DroppedResult]]:
    """Mark the items of results as done; return the results to store, and those that nothing is stored of."""
    refused = await _list_refused(db, done)
    dropped = [DroppedResult(item, "gone") for item in refused]
    for item in refused:
        open_row = update(batch_items).where(*_is_item(item), batch_items.c.outcome.is_(None))
        await db.execute(open_row.values(outcome="erased", owner=None, deadline=None))
    refused_ids = set(map(id, refused))
    wanted = [item for item in done if id(item) not in refused_ids]
    marked_ids = set(map(id, await _mark_done(db, [item for item in wanted if item.batch_id in open_ids], owner)))
    fresh = [item for item in wanted if id(item) in marked_ids]
    for item in wanted:
        if id(item) not in marked_ids and (reason := await _why_dropped(db, item, open_ids)):
            dropped.append(DroppedResult(item, reason))
    return fresh, dropped


async def _lock_open(db: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Return which of these batches are open, and keep them so until this transaction ends."""
    # A batch that is cancelled meanwhile would get results after its cancellation. And of two servers that finish its
    # last items at once, neither would see that it is complete.
    query = select(batches.c.id).where(batches.c.id.in_(ids), batches.c.state.in_(OPEN_STATES))
    return set(await db.scalars(query.order_by(batches.c.id).with_for_update(key_share=True)))


async def _mark_done(db: AsyncConnection, items: Sequence[ItemResult], owner: str | None) -> list[ItemResult]:
    """Mark items as done; return those that were not done already, gone, or held by another server."""
    first = {_key(item): item for item in reversed(items)}
    positions: dict[tuple[str, int], ItemResult] = {}
    for batch_id in sorted({item.batch_id for item in items}):
        keys = sorted(key[1:] for key in first if key[0] == batch_id)
        # Without a condition on the outcome, with which both databases would read all open items.
        pairs = tuple_(batch_items.c.user_id, batch_items.c.engagement_id).in_(keys)
        columns = batch_items.c.position, batch_items.c.user_id, batch_items.c.engagement_id
        for position, *key in await db.execute(select(*columns).where(batch_items.c.batch_id == batch_id, pairs)):
            positions[batch_id, position] = first[(batch_id, *key)]
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for (batch_id, position), item in sorted(positions.items()):
        alike[batch_id, item.outcome].append(position)
    fresh: list[ItemResult] = []
    for (batch_id, outcome), found in sorted(alike.items()):
        open_rows = [batch_items.c.batch_id == batch_id, batch_items.c.position.in_(found)]
        open_rows += [batch_items.c.outcome.is_(None), *([] if owner is None else [batch_items.c.owner == owner])]
        change = update(batch_items).where(*open_rows).values(outcome=outcome, owner=None, deadline=None)
        marked = await db.scalars(change.returning(batch_items.c.position))
        fresh += [positions[batch_id, position] for position in sorted(marked)]
    return fresh


def _key(item: ItemResult) -> tuple[str, str, str]:
    return item.batch_id, item.user_id, item.engagement_id


async def _why_dropped(db: AsyncConnection, item: ItemResult, open_ids: Collection[str]) -> DropReason | None:
    """Return why an item's result is not stored; None if the item was done before, so its traces are stored already."""
    row = (await db.execute(select(batch_items.c.outcome).where(*_is_item(item)))).first()
    if row is None:
        return "gone"
    if row.outcome is not None:
        return None
    return "lost" if item.batch_id in open_ids else "ended"


async def _list_refused(db: AsyncConnection, done: Sequence[ItemResult]) -> list[ItemResult]:
    """Return the results of users whose data is being erased, or was erased since it was read."""
    refused: list[ItemResult] = []
    for epoch in {item.read_epoch for item in done}:
        same = [item for item in done if item.read_epoch == epoch]
        users = await find_refused(db, dict.fromkeys((item.user_id for item in same), epoch))
        refused += [item for item in same if item.user_id in users]
    return refused


async def _checked(db: AsyncConnection, fresh: Sequence[ItemResult]) -> list[tuple[ItemResult, list[Trace]]]:
    """Return items with their traces as they are stored.

    An item whose only accepted trace is a repetition is rejected.
    """
    of_items = [trace.model_copy(update={"batch_id": item.batch_id}) for item in fresh for trace in item.traces]
    rest = iter(await reject_repeated(db, of_items))
    checked = [(item, [next(rest) for _ in item.traces]) for item in fresh]
    for item, kept in checked:
        if item.outcome == "accepted" and not any(trace.verdict == "accepted" for trace in kept):
            await db.execute(update(batch_items).where(*_is_item(item)).values(outcome="rejected"))
    return checked


def _is_item(item: ItemResult) -> list[Any]:
    return [
        batch_items.c.batch_id == item.batch_id,
        batch_items.c.user_id == item.user_id,
        batch_items.c.engagement_id == item.engagement_id,
    ]


def _added(items: Sequence[Sequence[Trace]], seconds: float) -> dict[str, Any]:
    """Return new values of a batch's counts, with the traces of finished items added."""
    written = [trace for item in items for trace in item]
    cut = sum(any(trace.provenance.memory_dropped for trace in item) for item in items)
    hinted = sum(trace.verdict == "accepted" and trace.provenance.saw_answer for trace in written)
    return {
        "generated_tokens": batches.c.generated_tokens + sum(trace.thinking_tokens for trace in written),
        "prompt_tokens": batches.c.prompt_tokens + sum(trace.prompt_tokens for trace in written),
        "cached_tokens": batches.c.cached_tokens + sum(trace.cached_tokens for trace in written),
        "truncated": batches.c.truncated + cut,
        "hinted": batches.c.hinted + hinted,
        "busy_seconds": batches.c.busy_seconds + seconds,
    }


async def _change(db: AsyncConnection, id: str, *only_if: Any, **values: Any) -> bool:
    return bool((await db.execute(update(batches).where(batches.c.id == id, *only_if).values(**values))).rowcount)


async def _load(db: AsyncConnection, query: Select[Any]) -> list[Batch]:
    rows = (await db.execute(query)).mappings().all()
    counts = await row_counts.of_batches(db, [row["id"] for row in rows])
    return [assemble(row, counts[row["id"]].outcomes, counts[row["id"]].funnel) for row in rows]


def assemble(row: RowMapping | dict[str, Any], outcomes: dict[str | None, int], counted: Funnel) -> Batch:
    """Build a batch from its row.

    Args:
        row: The row of the batch.
        outcomes: Number of its items by outcome; None stands for items that are not done.
        counted: The funnel of its traces.
    """
    items = sum(outcomes.values())
    done = items - outcomes.get(None, 0)
    skipped = {reason: count for reason, count in outcomes.items() if reason not in (None, "accepted", "rejected")}
    counted = counted.model_copy(update={"attempted": done - sum(skipped.values())})
    speed = row["generated_tokens"] / row["busy_seconds"] if row["busy_seconds"] else 0.0
    progress = {"items": items, "done": done, "skipped": skipped, "funnel": counted, "tokens_per_second": speed}
    return Batch.model_validate(dict(row) | progress)
