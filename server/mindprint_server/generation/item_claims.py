"""Claims items of open batches for this server, extends the claims, and notices what other servers did to a batch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Protocol
from uuid import uuid4

from mindprint_server.context import ServerContext
from mindprint_server.generation.batch_pauses import BatchPauses
from mindprint_server.generation.scheduler import Item
from mindprint_server.store import StoreError
from mindprint_server.store.batch_claims import ItemKey, OpenBatch
from mindprint_server.tenancy import in_tenant

NOTIFICATIONS = "batch notifications"
"""Name of the task that listens."""


class ClaimingWorker(Protocol):
    """What works on the claimed items."""

    @property
    def held(self) -> set[Item]:
        """Items that are claimed and not done."""

    @property
    def limit(self) -> int | None:
        """Number of items that the engine can take at once; None if it takes no more."""

    @property
    def ending(self) -> Collection[str]:
        """Ids of batches that are about to end, so that nothing more of them is claimed."""

    def add(self, batch: OpenBatch, items: Sequence[Item]) -> None:
        """Work on claimed items."""

    async def drop_batch(self, batch_id: str) -> None:
        """Stop the work on a batch that has ended."""

    def drop_items(self, items: Iterable[Item]) -> None:
        """Stop the work on items that another server holds."""


def items_to_claim(held: int, limit: int, ahead: int) -> int:
    """Return how many items to claim; 0 until at least half of `ahead` is missing.

    Args:
        held: Items that are claimed and not done.
        limit: Items that the engine can take at once.
        ahead: Items to claim beyond those.
    """
    missing = limit + ahead - held
    return missing if missing > 0 and 2 * missing >= ahead else 0


class ItemClaimer:
    """Claims items for one run of a server.

    Attributes:
        owner: Id of this run. A server that is started again has another one.
    """

    def __init__(self, ctx: ServerContext, worker: ClaimingWorker, pauses: BatchPauses) -> None:
        self.owner = uuid4().hex
        self._settings = ctx.settings
        self._store = ctx.store
        self._supervisor = ctx.supervisor
        self._worker = worker
        self._pauses = pauses
        self._open: list[OpenBatch] = []
        self._claimable: deque[OpenBatch] = deque()
        self._must_look = True
        self._looked_at = 0.0
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def may_have_more(self) -> bool:
        """Whether items may wait in the store that no server has claimed, and that may start."""
        return self._must_look or bool(self._may_start(self._claimable))

    def start(self) -> None:
        """Start to claim, to extend claims, and to listen."""
        start_loop = self._supervisor.start_loop
        self._tasks = [
            start_loop("batch claims", self._claim_once, self._wait),
            start_loop("batch heartbeat", self._extend, partial(asyncio.sleep, self._settings.batch_claim_ttl_s / 3)),
        ]
        if self._settings.batch_listen and self._store.notifications.available:
            self._tasks.append(
                start_loop(NOTIFICATIONS, self._listen, partial(asyncio.sleep, self._settings.retry_min_s))
            )

    async def stop(self) -> None:
        """Stop to claim; what is claimed stays so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def look_soon(self) -> None:
        """Look at the open batches now: one may have begun or ended."""
        self._must_look = True
        self._wake.set()

    def claim_soon(self) -> None:
        """Claim now if too few items are held."""
        self._wake.set()

    async def give_back(self, items: Iterable[Item]) -> None:
        """Let other servers claim items. If the store is away, they wait until the claims end."""
        for tenant, held in _by_tenant(items).items():
            with contextlib.suppress(StoreError), in_tenant(tenant):
                await self._store.batch_claims.give_back(self.owner, held)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.batch_poll_interval_s):
                await self._wake.wait()

    async def _listen(self) -> bool:
        await self._store.notifications.listen(self._hear)
        return True

    def _hear(self) -> None:
        # Listening lasts as long as its session: without this, a lost one would count as failing for ever.
        self._supervisor.note_success(NOTIFICATIONS)
        self.look_soon()

    async def _claim_once(self) -> bool:
        self._wake.clear()
        if self._must_look or time.monotonic() - self._looked_at >= self._settings.batch_poll_interval_s:
            await self._look()
        await self._pauses.note(self._open)
        while (batches := self._may_start(self._claimable)) and (wanted := self._wanted()):
            await self._claim(batches, wanted)
        return True

    def _wanted(self) -> int:
        if (limit := self._worker.limit) is None:
            return 0
        # Held items of a batch that waits take no slot. Counted, they would keep other tenants' items from this server.
        waiting = {batch.id for batch in self._open if self._pauses.is_paused(batch)}
        held = sum(item.batch_id not in waiting for item in self._worker.held)
        return items_to_claim(held, limit, self._settings.batch_claim_ahead)

    def _may_start(self, batches: Iterable[OpenBatch]) -> list[OpenBatch]:
        return [batch for batch in batches if not self._pauses.is_paused(batch)]

    async def _look(self) -> None:
        """See which batches are open, end those that are complete, and drop those that have ended."""
        self._must_look = False
        try:
            batches = await self._store.batch_claims.list_open()
            for batch in batches:
                if batch.is_complete:
                    with in_tenant(batch.tenant):
                        await self._store.batch_claims.end_if_complete(batch.id)
            for batch_id in {item.batch_id for item in self._worker.held} - {batch.id for batch in batches}:
                await self._worker.drop_batch(batch_id)
        except BaseException:
            self._must_look = True
            raise
        self._looked_at = time.monotonic()
        self._open = batches
        self._claimable = in_turn([batch for batch in batches if batch.has_claimable], self._claimable)

    async def _claim(self, batches: Sequence[OpenBatch], wanted: int) -> None:
        """Claim items of the batch whose turn it is: of the tenant of whom the fewest items are held."""
        held, ttl_s = Counter(item.tenant for item in self._worker.held), self._settings.batch_claim_ttl_s
        batch = min(batches, key=lambda batch: held[batch.tenant])
        if batch.id in self._worker.ending:
            self._claimable.remove(batch)
            return
        with in_tenant(batch.tenant):
            found = await self._store.batch_claims.claim(batch.id, self.owner, limit=wanted, ttl_s=ttl_s)
        self._claimable.remove(batch)
        if len(found) == wanted:
            self._claimable.append(batch)
        if found:
            self._worker.add(batch, [Item(batch.id, user_id, id, batch.tenant) for user_id, id in found])

    async def _extend(self) -> bool:
        """Extend the claims, and drop items that another server has taken over."""
        ttl_s = self._settings.batch_claim_ttl_s
        for tenant, held in _by_tenant(self._worker.held).items():
            with in_tenant(tenant):
                lost = await self._store.batch_claims.extend(self.owner, held, ttl_s)
            self._worker.drop_items(Item(batch_id, *key, tenant) for batch_id, keys in lost.items() for key in keys)
        return True


def in_turn(claimable: Sequence[OpenBatch], before: Iterable[OpenBatch]) -> deque[OpenBatch]:
    """Return the batches to claim from, in turn: new ones first, then the others as they stood.

    Args:
        claimable: Batches that have items to claim, oldest first.
        before: The earlier order.
    """
    places = {batch.id: place for place, batch in enumerate(before)}
    return deque(sorted(claimable, key=lambda batch: places.get(batch.id, -1)))


def _by_tenant(items: Iterable[Item]) -> dict[str, dict[str, set[ItemKey]]]:
    """Return the keys of items by tenant and batch id."""
    keys: dict[str, dict[str, set[ItemKey]]] = {}
    for item in items:
        of_batch = keys.setdefault(item.tenant, {}).setdefault(item.batch_id, set())
        of_batch.add((item.user_id, item.engagement_id))
    return keys
