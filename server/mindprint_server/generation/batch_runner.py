"""Runs durable batches: starts as many of their engagements at once as the engine can take, and stores the results.

Several servers may run the same batch. Each works on the items that it has claimed (`item_claims.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import structlog

from mindprint.types import Batch, BatchRequest
from mindprint.types.keys import AdapterKey
from mindprint_server.context import ServerContext
from mindprint_server.engine import EngineDied
from mindprint_server.exceptions import Invalid
from mindprint_server.generation.active_batch import ActiveBatch
from mindprint_server.generation.batch_pauses import BatchPauses
from mindprint_server.generation.batch_watchers import BatchWatchers
from mindprint_server.generation.concurrency import ConcurrencyLimiter
from mindprint_server.generation.engagement import EngagementProcessor, UserSnapshot
from mindprint_server.generation.item_claims import ItemClaimer
from mindprint_server.generation.result_writer import ResultWriter
from mindprint_server.generation.scheduler import EngagementScheduler, Item, plan_in_chunks
from mindprint_server.memory import ProfileWriter
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.sharing.quotas import current_key, in_key
from mindprint_server.store import Holdout, RecordNotFound, StoreError, UserBeingErased
from mindprint_server.store.batch_claims import OpenBatch
from mindprint_server.store.batches import DropReason, ItemResult
from mindprint_server.tenancy import current_tenant, erasure_epoch, in_tenant

log = structlog.get_logger(__name__)


class BatchRunner:
    """Works on the open batches of the store, from the start of the server to its end."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        profiles: ProfileWriter,
        processor: EngagementProcessor,
        holdout: Holdout,
        admission: AdmissionController,
    ) -> None:
        self._settings = settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._profiles = profiles
        self._processor = processor
        self._holdout = holdout
        self._admission = admission
        self._scheduler = EngagementScheduler(
            max_per_user=settings.batch_per_user, max_starvation_s=settings.batch_max_starvation_s
        )
        self._concurrency = ConcurrencyLimiter(slots=settings.max_num_seqs, max_limit=settings.batch_max_in_flight)
        self._supervisor = ctx.supervisor
        self._pauses = BatchPauses(ctx)
        self._claimer = ItemClaimer(ctx, self, self._pauses)
        self._results = ResultWriter(
            ctx.store, self._notify_watchers, supervisor=ctx.supervisor, owner=self._claimer.owner
        )
        self._active: dict[str, ActiveBatch] = {}
        self._wake = asyncio.Event()
        self._engine_died: EngineDied | None = None
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._watchers = BatchWatchers(ctx.store, settings)
        self._task: asyncio.Task[None] | None = None

    # --- called by the API ---

    async def submit(self, request: BatchRequest) -> tuple[Batch, bool]:
        """Plan and store a batch.

        Returns:
            The batch, and whether it is new: a known idempotency key returns the batch that has it.

        Raises:
            RecordNotFound: A user does not exist.
            QueueFull: Too many batches are open.
            IdempotencyConflict: The idempotency key came with another request before.
            Invalid: `unhinted` is 0 and the server's hints are off.
        """
        if request.unhinted == 0 and request.hints is None and not self._settings.hints:
            message = "unhinted=0 shows the writer the answer, but this server gives no hints: send hints=true with it"
            raise Invalid("validation_error", message, param="unhinted")
        plan = await self._store.traces.list_untraced(request.users, self._holdout)
        plan = plan_in_chunks(plan, self._settings.batch_chunk_per_user)
        batch, created = await self._store.batches.add(
            request,
            plan,
            max_open=self._settings.max_open_batches,
            max_open_total=self._settings.max_open_batches_total,
            api_key=current_key(),
        )
        if created:
            for reason, count in batch.skipped.items():
                self._metrics.skipped.labels(reason=reason).inc(count)
        self._claimer.look_soon()
        return batch, created

    async def cancel(self, batch_id: str) -> Batch:
        """Cancel a batch and return it; its stored traces stay. A batch in a final state does not change.

        Raises:
            RecordNotFound: The batch does not exist.
        """
        batch = await self._store.batches.cancel(batch_id)
        await self.drop_batch(batch_id)
        self._claimer.look_soon()
        await self._notify_watchers()
        return await self._store.batches.get(batch_id) if batch.state == "cancelled" else batch

    def watch(self, batch_id: str) -> AsyncGenerator[Batch]:
        """Yield the batch now and after each change, at most one in `watch_interval_s`; end with a final state.

        Raises:
            LimitExceeded: `max_watchers` watch already.
            RecordNotFound: The batch does not exist.
        """
        return self._watchers.watch(batch_id)

    def forget(self) -> None:
        """Drop the histories that the tenant's running batches have read; items read them anew."""
        for active in self._active.values():
            if active.tenant == current_tenant():
                active.snapshots.clear()

    async def start(self) -> None:
        """Start running the open batches."""
        self._results.start()
        self._claimer.start()
        self._task = self._supervisor.start_loop("batches", self._run_once, self._wait_for_work)

    async def stop(self) -> None:
        """Stop between two commits. The open batches go on at other servers, or when this one starts again."""
        self._watchers.stop()
        await self._claimer.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        held = self.held
        for active in list(self._active.values()):
            if active.id not in self._active:
                continue  # its last item ended while another batch was stopped
            # A store that is away now must not keep the engine from being stopped.
            with contextlib.suppress(StoreError):
                await self._stop_work(active)
        for task in self._ending.values():
            task.cancel()
        await asyncio.gather(*self._ending.values(), return_exceptions=True)
        await self._results.stop()
        await self._claimer.give_back(held)

    async def _notify_watchers(self) -> None:
        self._watchers.notify()

    # --- called by the claimer ---

    @property
    def held(self) -> set[Item]:
        """Items that this server has claimed and that are not done."""
        return {item for active in self._active.values() for items in active.items.values() for item in items}

    @property
    def limit(self) -> int | None:
        """Number of items that the engine can take at once; None once it died."""
        return None if self._engine_died else self._concurrency.limit

    @property
    def ending(self) -> Collection[str]:
        """Ids of batches that are about to end."""
        return self._ending

    def add(self, batch: OpenBatch, items: Sequence[Item]) -> None:
        """Work on claimed items, after their users' profiles are written."""
        if (active := self._active.get(batch.id)) is None:
            preparing = asyncio.Semaphore(self._settings.profiles_at_once)
            active = ActiveBatch(batch.id, batch.tenant, batch.request, preparing, batch.api_key)
            self._active[batch.id] = active
            self._results.begin(batch.id)
        for user_id, of_user in groupby(items, key=lambda item: item.user_id):
            taken = list(of_user)
            active.items.setdefault(user_id, set()).update(taken)
            self._spawn(active, self._prepare(active, user_id, taken))
        self._wake.set()

    async def drop_batch(self, batch_id: str) -> None:
        """Stop this server's work on a batch that has ended; its results are not stored any more."""
        # The commit that ends a batch may be seen in the store before its items are forgotten here.
        await self._results.wait_for_commit()
        if (active := self._active.get(batch_id)) is not None:
            items = sum(map(len, active.items.values()))
            log.info("work on batch stopped", batch=batch_id, items=items)
            self._metrics.items_dropped.labels(reason="ended").inc(items)
            await self._stop_work(active)
            await self._notify_watchers()

    def drop_items(self, items: Iterable[Item]) -> None:
        """Stop the work on items that another server has taken over."""
        for item in items:
            active = self._active.get(item.batch_id)
            if active is None or item not in active.items.get(item.user_id, ()):
                continue
            self._metrics.items_dropped.labels(reason="lost").inc()
            if task := active.running.get(item):
                task.cancel()
            self._scheduler.remove(item)
            self._forget(active, item)

    # --- the loop ---

    async def _run_once(self) -> bool:
        """Start items. Return False once the engine died.

        The process then ends; the batches are still `running` in the store, and go on at any server.
        """
        self._wake.clear()
        if self._engine_died is not None:
            return False
        self._start_items()
        return True

    async def _wait_for_work(self) -> None:
        # Poll the engine while there is work: its load changes without an item ending.
        interval = self._settings.plan_interval_s if self._active else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await self._wake.wait()

    def _start_items(self) -> None:
        for active in self._active.values():
            self._pause_or_resume(active)
        stats = self._engine.stats()
        reserved = self._admission.reserved_beside(self._scheduler.tenants)
        limit = self._concurrency.update(stats, reserved=reserved)
        self._metrics.batch_in_flight.set(self._scheduler.running)
        self._metrics.update_engine(stats)
        for item in self._scheduler.take(limit - self._scheduler.running, time.monotonic()):
            active = self._active[item.batch_id]
            active.running[item] = self._spawn(active, self._process_item(active, item))
        self._claimer.claim_soon()

    def _pause_or_resume(self, active: ActiveBatch) -> None:
        if not self._pauses.is_paused(active):
            self._scheduler.resume(active.id, time.monotonic())
            self._results.begin(active.id)
            return
        self._scheduler.pause(active.id)
        if not active.running:
            self._results.discard(active.id)  # the time in which it waits is not working time

    def _spare_candidates(self) -> int:
        """Return how many candidates each running engagement may generate at once; 0 while items wait to start.

        At the end of a batch the engine has free slots.
        """
        if self._scheduler.remaining or self._claimer.may_have_more or not self._scheduler.running:
            return 0
        return int(self._settings.max_num_seqs * self._settings.batch_spare) // self._scheduler.running

    def _spawn(self, active: ActiveBatch, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        with in_tenant(active.tenant), in_key(active.api_key):
            task = asyncio.create_task(work)
        active.tasks.add(task)
        task.add_done_callback(active.tasks.discard)
        return task

    # --- the work ---

    async def _prepare(self, active: ActiveBatch, user_id: str, items: Sequence[Item]) -> None:
        """Write the profiles of a user before its items are scheduled."""
        with self._handle_failure(active):
            async with active.preparing:
                await self._pauses.wait(active)
                # The user was erased, or is being erased: each item ends as `erased`.
                with contextlib.suppress(RecordNotFound, UserBeingErased):
                    await self._supervisor.retry("profiles", partial(self._profiles.ensure, user_id))
            held = active.items.get(user_id, ())
            self._scheduler.add([item for item in items if item in held], time.monotonic())
            self._wake.set()

    async def _process_item(self, active: ActiveBatch, item: Item) -> None:
        with self._handle_failure(active):
            try:
                result = await self._supervisor.retry("items", partial(self._result_of, active, item))
            finally:
                self._scheduler.finish(item)
                self._wake.set()
            if reason := await self._results.write(result):
                self._count_dropped(result, reason)
            self._forget(active, item)

    def _count_dropped(self, result: ItemResult, reason: DropReason) -> None:
        if reason == "ended":
            self._claimer.look_soon()  # another server ended it
        if reason != "gone":
            self._metrics.items_dropped.labels(reason=reason).inc()
        elif result.outcome != "erased":
            self._metrics.skipped.labels(reason="erased").inc()

    def _forget(self, active: ActiveBatch, item: Item) -> None:
        active.forget(item)
        if not active.items and self._active.get(active.id) is active:
            del self._active[active.id]
            self._results.discard(active.id)
        self._wake.set()

    async def _result_of(self, active: ActiveBatch, item: Item) -> ItemResult:
        backlog = await self._backlog(active)
        if backlog[item.user_id] >= self._settings.max_backlog:
            return self._processor.skip(item, "backlog_full")
        user = await self._snapshot(active, item.user_id)
        result = await self._processor.process(item, active.request, user, spare_candidates=self._spare_candidates)
        backlog[item.user_id] += sum(trace.verdict == "accepted" for trace in result.traces)
        return replace(result, read_epoch=user.read_epoch)

    async def _backlog(self, active: ActiveBatch) -> Counter[str]:
        async with active.snapshot_lock:
            if active.backlog is None:
                waiting = await self._store.traces.count_waiting()
                active.backlog = Counter({AdapterKey(key).name: count for key, count in waiting.items()})
            return active.backlog

    async def _snapshot(self, active: ActiveBatch, user_id: str) -> UserSnapshot:
        """Return the user's snapshot. The first engagement reads it; the others of the batch share it."""
        async with active.snapshot_lock:
            known = active.snapshots.get(user_id)
            if known is None or known.read_epoch != erasure_epoch():
                known = active.snapshots[user_id] = await self._processor.read_user(user_id)
            return known

    # --- the end of a batch ---

    @contextlib.contextmanager
    def _handle_failure(self, active: ActiveBatch) -> Iterator[None]:
        """Fail this batch, and no other, if the block raises. If the engine died, the process ends instead."""
        try:
            yield
        except EngineDied as error:
            self._engine_died = error
            self._wake.set()
        except Exception as error:
            log.exception("batch failed", batch=active.id)
            self._start_failure(active, f"{type(error).__name__}: {error}")

    def _start_failure(self, active: ActiveBatch, error: str) -> None:
        """Fail a batch, in a task of its own: it cancels the batch's tasks, and waits for a store that is away."""
        if self._active.get(active.id) is not active:
            return
        held = [item for items in active.items.values() for item in items]
        del self._active[active.id]
        self._scheduler.drop(active.id)
        task = self._supervisor.start_job("batch ends", partial(self._fail, active, held, error))
        self._ending[active.id] = task
        task.add_done_callback(lambda _: self._ending.pop(active.id, None))

    async def _fail(self, active: ActiveBatch, held: Sequence[Item], error: str) -> None:
        await self._cancel_tasks(active)
        with contextlib.suppress(RecordNotFound):
            await self._results.end(active.id)
            await self._store.batches.finish(active.id, "failed", error)
        await self._claimer.give_back(held)
        await self._notify_watchers()

    async def _stop_work(self, active: ActiveBatch) -> None:
        """Stop this server's work on a batch; the batch does not change in the store."""
        held = [item for items in active.items.values() for item in items]
        del self._active[active.id]
        self._scheduler.drop(active.id)
        await self._cancel_tasks(active)
        with in_tenant(active.tenant):
            await self._results.end(active.id)
        await self._claimer.give_back(held)

    async def _cancel_tasks(self, active: ActiveBatch) -> None:
        tasks = list(active.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._wake.set()
