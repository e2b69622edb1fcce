"""Claims: a server's timed hold on items of open batches, so that each item is worked on by one server.

A claim is two columns of the item's row: the server, and a deadline by the database's clock. A server extends its
claims while it lives. After the deadline any server may take the item. A result is stored only for the server that
holds the item (`BatchRepository.finish_items`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint.types import BatchRequest
from mindprint_server.store.clock import read_time
from mindprint_server.store.database import Database
from mindprint_server.store.notifications import notify
from mindprint_server.store.states import OPEN_STATES
from mindprint_server.store.tables import batch_items, batches
from mindprint_server.tenancy import in_all_tenants, in_tenant

ItemKey = tuple[str, str]
"""User id and engagement id: an item within its batch."""


@dataclass(frozen=True)
class OpenBatch:
    """A batch that has not ended.

    Attributes:
        tenant: Whose it is.
        id: Its id.
        request: What it was asked for.
        has_claimable: Whether a server may claim some of its items now.
        is_complete: Whether all of its items are done, so that it can end.
        api_key: Id of the key that started it, whose quotas hold for it; None: none.
    """

    tenant: str
    id: str
    request: BatchRequest
    has_claimable: bool
    is_complete: bool
    api_key: str | None = None


class BatchClaimRepository:
    """Claims items of batches for servers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_open(self, *, now: datetime | None = None) -> list[OpenBatch]:
        """List the batches of all tenants that have not ended, oldest first.

        Args:
            now: None: the present by the database's clock.
        """
        with in_all_tenants():
            names = await self._database.read(_list_tenants)
        found: list[OpenBatch] = []
        for name in names:
            with in_tenant(name):
                found += await self._database.read(_list_open, name, now)
        return sorted(found, key=lambda batch: batch.id)

    async def claim(
        self, batch_id: str, owner: str, *, limit: int, ttl_s: float, now: datetime | None = None
    ) -> list[ItemKey]:
        """Claim items of an open batch in their order, and mark the batch as running.

        Users of whom another server holds items come last: one user's items share a prefix cache and a profile.

        Args:
            batch_id: The batch. One that has ended, or is unknown, has no items to claim.
            owner: The server.
            limit: Maximum number of items.
            ttl_s: Seconds until the claim ends, if it is not extended.
            now: Start of the claim; None: the present by the database's clock.
        """
        return await self._database.write(_claim, batch_id, owner, limit, ttl_s, now)

    async def extend(
        self, owner: str, items: Mapping[str, Collection[ItemKey]], ttl_s: float, *, now: datetime | None = None
    ) -> dict[str, set[ItemKey]]:
        """Let claims end `ttl_s` seconds from now.

        Args:
            owner: The server.
            items: Its items by batch id. Other claims of it end at their deadline.
            ttl_s: Seconds until they end.
            now: None: the present by the database's clock.

        Returns:
            By batch id, those of the items that another server has taken over.
        """
        return await self._database.write(_extend, owner, items, ttl_s, now)

    async def give_back(self, owner: str, items: Mapping[str, Collection[ItemKey]]) -> None:
        """End claims now, so that any server may claim the items.

        Args:
            owner: The server.
            items: Items by batch id. Those that the server does not hold do not change.
        """
        await self._database.write(_give_back, owner, items)

    async def note_wait(self, batch_id: str, reason: str | None) -> None:
        """Say why a server starts no items of an open batch. Whoever claims items of it takes that back.

        Args:
            batch_id: The batch. One that has ended does not change.
            reason: What its items wait for; None: they do not wait any more.
        """
        await self._database.write(_note_wait, batch_id, reason)

    async def release_all(self) -> None:
        """Give back all items of all tenants: no other server runs, so who claimed them has ended.

        A deadline of a server that ended may lie far ahead, if the wall clock was set back since then.
        """
        with in_all_tenants():
            await self._database.write(_release_all)

    async def end_if_complete(self, batch_id: str) -> bool:
        """End an open batch as done if no item of it is open; return whether this call ended it."""
        return await self._database.write(end_if_complete, batch_id)


async def end_if_complete(db: AsyncConnection, batch_id: str) -> bool:
    """End an open batch as done if no item of it is open; return whether this call ended it."""
    now = datetime.now(UTC)
    complete = update(batches).where(
        batches.c.id == batch_id, batches.c.state.in_(OPEN_STATES), ~_open_items(batches.c.id).exists()
    )
    await db.execute(complete.where(batches.c.state == "queued").values(started_at=now))
    ended = (await db.execute(complete.values(state="done", waiting_for=None, finished_at=now))).rowcount
    if ended:
        await notify(db, batch_id)
    return bool(ended)


async def _list_tenants(db: AsyncConnection) -> list[str]:
    """List the tenants that have open batches."""
    query = select(batches.c.tenant).where(batches.c.state.in_(OPEN_STATES)).distinct()
    return list((await db.scalars(query)).all())


async def _list_open(db: AsyncConnection, tenant: str, now: datetime | None) -> list[OpenBatch]:
    open_items = _open_items(batches.c.id)
    claimable = open_items.where(_is_claimable(now or await read_time(db)))
    query = (
        select(batches.c.id, batches.c.request, claimable.exists(), ~open_items.exists(), batches.c.api_key)
        .where(batches.c.state.in_(OPEN_STATES))
        .order_by(batches.c.id)
    )
    return [
        OpenBatch(tenant, id, BatchRequest.model_validate(request), bool(has_claimable), bool(is_complete), api_key)
        for id, request, has_claimable, is_complete, api_key in await db.execute(query)
    ]


async def _claim(
    db: AsyncConnection, batch_id: str, owner: str, limit: int, ttl_s: float, now: datetime | None
) -> list[ItemKey]:
    batch = (await db.execute(select(batches.c.state, batches.c.waiting_for).where(batches.c.id == batch_id))).first()
    if batch is None or batch.state not in OPEN_STATES:
        return []
    now = now or await read_time(db)
    others = select(batch_items.c.user_id).where(
        batch_items.c.batch_id == batch_id,
        batch_items.c.owner.is_not(None),
        batch_items.c.owner != owner,
        batch_items.c.deadline > now,
    )
    claimed: dict[int, ItemKey] = {}
    for users in ([batch_items.c.user_id.not_in(others)], []):
        if len(claimed) < limit:
            claimed |= await _take(db, batch_id, owner, limit - len(claimed), ttl_s, now, users)
    if claimed and batch.waiting_for is not None:
        await db.execute(update(batches).where(batches.c.id == batch_id).values(waiting_for=None))
    if claimed and batch.state == "queued":
        begun = update(batches).where(batches.c.id == batch_id, batches.c.state == "queued")
        await db.execute(begun.values(state="running", started_at=datetime.now(UTC)))
    return [claimed[position] for position in sorted(claimed)]


async def _take(
    db: AsyncConnection,
    batch_id: str,
    owner: str,
    limit: int,
    ttl_s: float,
    now: datetime,
    only: Collection[ColumnElement[bool]],
) -> dict[int, ItemKey]:
    """Claim items that fit; return them by position. Rows that another server is claiming are skipped."""
    # All outcomes are NULL. Ordered by position alone, PostgreSQL would sort all open items of the batch: it does not
    # see that an index on (batch, outcome, position) yields them in this order.
    items = batch_items.c
    query = (
        select(items.position, items.user_id, items.engagement_id)
        .where(items.batch_id == batch_id, items.outcome.is_(None), _is_claimable(now), *only)
        .order_by(items.outcome, items.position)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    found = {position: (user_id, id) for position, user_id, id in await db.execute(query)}
    if found:
        await _change(db, batch_id, found, owner=owner, deadline=now + timedelta(seconds=ttl_s))
    return found


async def _extend(
    db: AsyncConnection, owner: str, items: Mapping[str, Collection[ItemKey]], ttl_s: float, now: datetime | None
) -> dict[str, set[ItemKey]]:
    deadline = (now or await read_time(db)) + timedelta(seconds=ttl_s)
    lost: dict[str, set[ItemKey]] = {}
    for batch_id in sorted(items):
        # Rows that are locked are being finished. To wait for them could end in a deadlock.
        mine = await db.execute(_claimed(batch_id, owner).with_for_update(key_share=True, skip_locked=True))
        await _change(db, batch_id, _among(items[batch_id], mine).values(), deadline=deadline)
        lost[batch_id] = set(_among(items[batch_id], await db.execute(_claimed(batch_id, owner, by_others=True))))
    return lost


async def _give_back(db: AsyncConnection, owner: str, items: Mapping[str, Collection[ItemKey]]) -> None:
    # A commit of results locks the batches first too, so neither waits for the other's items. A heartbeat never waits.
    lock = select(batches.c.id).where(batches.c.id.in_(items)).order_by(batches.c.id)
    await db.execute(lock.with_for_update(key_share=True))
    for batch_id in sorted(items):
        mine = await db.execute(_claimed(batch_id, owner).with_for_update(key_share=True))
        await _change(db, batch_id, _among(items[batch_id], mine).values(), owner=None, deadline=None)


async def _note_wait(db: AsyncConnection, batch_id: str, reason: str | None) -> None:
    is_open = batches.c.id == batch_id, batches.c.state.in_(OPEN_STATES)
    await db.execute(update(batches).where(*is_open).values(waiting_for=reason))


def _claimed(batch_id: str, owner: str, *, by_others: bool = False) -> Select[tuple[int, str, str]]:
    """Select the items of a batch that a server, or another one, holds. They are few; a list of keys would be long."""
    items = batch_items.c
    of_server = items.owner != owner if by_others else items.owner == owner
    # Items that are done have no owner. A condition on `outcome` would make both databases read all open items.
    columns = select(items.position, items.user_id, items.engagement_id)
    return columns.where(items.batch_id == batch_id, items.owner.is_not(None), of_server)


def _among(keys: Collection[ItemKey], rows: Iterable[Any]) -> dict[ItemKey, int]:
    """Return the positions of those of the rows that have one of these keys."""
    wanted = set(keys)
    return {(user_id, id): position for position, user_id, id in rows if (user_id, id) in wanted}


async def _change(db: AsyncConnection, batch_id: str, positions: Iterable[int], **values: Any) -> None:
    rows = update(batch_items).where(batch_items.c.batch_id == batch_id, batch_items.c.position.in_(list(positions)))
    await db.execute(rows.values(**values))


def _open_items(batch_id: ColumnElement[str]) -> Any:
    return select(batch_items.c.position).where(batch_items.c.batch_id == batch_id, batch_items.c.outcome.is_(None))


def _is_claimable(now: datetime) -> ColumnElement[bool]:
    return or_(batch_items.c.owner.is_(None), batch_items.c.deadline <= now)


async def _release_all(db: AsyncConnection) -> None:
    claimed = batch_items.c.owner.is_not(None)
    await db.execute(update(batch_items).where(claimed).values(owner=None, deadline=None))
