"""Runs durable batches: starts as many of their engagements at once as the engine can take, and stores the results."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from mindprint.types import Batch, BatchRequest, BatchState
from mindprint.types.keys import AdapterKey
from mindprint_server.context import ServerContext
from mindprint_server.engine import EngineDied
from mindprint_server.exceptions import Invalid
from mindprint_server.generation.batch_watchers import FINAL, BatchWatchers
from mindprint_server.generation.concurrency import ConcurrencyLimiter
from mindprint_server.generation.engagement import EngagementProcessor, UserSnapshot
from mindprint_server.generation.result_writer import ResultWriter
from mindprint_server.generation.scheduler import EngagementScheduler, Item
from mindprint_server.memory import ProfileWriter
from mindprint_server.store import Holdout, RecordNotFound, StoreError
from mindprint_server.store.batches import ItemResult

log = structlog.get_logger(__name__)


@dataclass
class ActiveBatch:
    """A batch that this server is running."""

    batch: Batch
    remaining: int
    """Items that are not done."""
    items: dict[str, list[Item]]
    """Items that are not done, by user."""
    backlog: Counter[str]
    """Accepted traces that wait for a trainer, by user. It is an estimate: traces that trainers take meanwhile are not
    subtracted, and items that run already are not stopped."""
    snapshots: dict[str, UserSnapshot] = field(default_factory=dict)
    """Snapshots of the users that still have items. The others are removed, because a snapshot holds a history."""
    snapshot_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class BatchRunner:
    """Runs all open batches of the store, from the start of the server to its end."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        profiles: ProfileWriter,
        processor: EngagementProcessor,
        holdout: Holdout,
    ) -> None:
        self._settings = settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._profiles = profiles
        self._processor = processor
        self._holdout = holdout
        self._scheduler = EngagementScheduler(
            max_per_user=settings.batch_per_user, max_starvation_s=settings.batch_max_starvation_s
        )
        self._concurrency = ConcurrencyLimiter(slots=settings.max_num_seqs, max_limit=settings.batch_max_in_flight)
        self._supervisor = ctx.supervisor
        self._results = ResultWriter(ctx.store, self._notify_watchers, supervisor=ctx.supervisor)
        self._active: dict[str, ActiveBatch] = {}
        self._wake = asyncio.Event()
        self._may_have_new = True
        self._engine_died: EngineDied | None = None
        self._ending: set[asyncio.Task[None]] = set()
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
        batch, created = await self._store.batches.add(request, plan, max_open=self._settings.max_open_batches)
        if created:
            for reason, count in batch.skipped.items():
                self._metrics.skipped.labels(reason=reason).inc(count)
        self._may_have_new = True
        self._wake.set()
        return batch, created

    async def cancel(self, batch_id: str) -> Batch:
        """Cancel a batch and return it; its stored traces stay. A batch in a final state does not change.

        Raises:
            RecordNotFound: The batch does not exist.
        """
        batch = await self._store.batches.cancel(batch_id)
        if batch_id in self._active:
            await self._stop_work(batch_id)
            log.info("batch cancelled", batch=batch_id)
        await self._notify_watchers()
        return await self._store.batches.get(batch_id) if batch.state == "cancelled" else batch

    def watch(self, batch_id: str) -> AsyncGenerator[Batch]:
        """Yield the batch now and after each change, at most one in `watch_interval_s`; end with a final state.

        Raises:
            LimitExceeded: `max_watchers` watch already.
            RecordNotFound: The batch does not exist.
        """
        return self._watchers.watch(batch_id)

    async def start(self) -> None:
        """Start running the open batches."""
        self._results.start()
        self._task = self._supervisor.start_loop("batches", self._run_once, self._wait_for_work)

    async def stop(self) -> None:
        """Stop between two commits; open batches continue at the next start."""
        self._watchers.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for batch_id in list(self._active):
            # A store that is away now must not keep the engine from being stopped.
            with contextlib.suppress(StoreError):
                await self._stop_work(batch_id)
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._results.stop()

    async def _notify_watchers(self) -> None:
        self._watchers.notify()

    # --- the loop ---

    async def _run_once(self) -> bool:
        """Pick up new batches and start items. Return False once the engine died.

        The process then ends; the batches are still `running` in the store and continue at the next start.
        """
        self._wake.clear()
        if self._engine_died is not None:
            return False
        if self._may_have_new:
            await self._open_new_batches()
        self._start_items()
        return True

    async def _wait_for_work(self) -> None:
        # Poll the engine while there is work: its load changes without an item ending.
        interval = self._settings.plan_interval_s if self._active or self._may_have_new else None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), interval)

    async def _open_new_batches(self) -> None:
        self._may_have_new = False
        try:
            for batch in await self._store.batches.list_open():
                if batch.id not in self._active:
                    await self._open(batch)
        except BaseException:
            self._may_have_new = True
            raise

    async def _open(self, batch: Batch) -> None:
        await self._store.batches.start(batch.id)
        if (await self._store.batches.get(batch.id)).state in FINAL:
            return  # it was cancelled meanwhile
        items: dict[str, list[Item]] = {}
        for user_id, engagement_id in await self._store.batches.list_pending_items(batch.id):
            items.setdefault(user_id, []).append(Item(batch.id, user_id, engagement_id))
        waiting = await self._store.traces.count_waiting()
        backlog = Counter({AdapterKey(key).name: count for key, count in waiting.items()})
        active = ActiveBatch(batch, sum(map(len, items.values())), items, backlog)
        self._active[batch.id] = active
        self._results.begin(batch.id)
        if not active.remaining:
            return self._start_end(active, "done")
        users = iter(list(items))
        for _ in range(min(self._settings.profiles_at_once, len(items))):
            self._spawn(active, self._prepare_users(active, users))

    def _start_items(self) -> None:
        stats = self._engine.stats()
        limit = self._concurrency.update(stats)
        self._metrics.batch_in_flight.set(self._scheduler.running)
        self._metrics.update_engine(stats)
        for item in self._scheduler.take(limit - self._scheduler.running, time.monotonic()):
            active = self._active[item.batch_id]
            self._spawn(active, self._process_item(active, item))

    def _spare_candidates(self) -> int:
        """Return how many candidates each running engagement may generate at once; 0 while items wait to start.

        At the end of a batch the engine has free slots.
        """
        if self._scheduler.remaining or not self._scheduler.running:
            return 0
        return int(self._settings.max_num_seqs * self._settings.batch_spare) // self._scheduler.running

    def _spawn(self, active: ActiveBatch, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        active.tasks.add(task)
        task.add_done_callback(active.tasks.discard)

    # --- the work ---

    async def _prepare_users(self, active: ActiveBatch, users: Iterator[str]) -> None:
        """Write the profiles of users, one after the other, before their items are scheduled."""
        with self._handle_failure(active):
            for user_id in users:
                with contextlib.suppress(RecordNotFound):  # the user was erased: each item ends as `erased`
                    await self._supervisor.retry("profiles", partial(self._profiles.ensure, user_id))
                self._scheduler.add(active.items[user_id], time.monotonic())
                self._wake.set()

    async def _process_item(self, active: ActiveBatch, item: Item) -> None:
        with self._handle_failure(active):
            try:
                result = await self._supervisor.retry("items", partial(self._result_of, active, item))
            finally:
                self._scheduler.finish(item)
                self._wake.set()
            if not await self._results.write(result) and result.outcome != "erased":
                self._metrics.skipped.labels(reason="erased").inc()
            active.remaining -= 1
            active.items[item.user_id].remove(item)
            if not active.items[item.user_id]:
                del active.items[item.user_id]
                active.snapshots.pop(item.user_id, None)
            if not active.remaining:
                self._start_end(active, "done")

    async def _result_of(self, active: ActiveBatch, item: Item) -> ItemResult:
        if active.backlog[item.user_id] >= self._settings.max_backlog:
            return self._processor.skip(item, "backlog_full")
        user = await self._snapshot(active, item.user_id)
        result = await self._processor.process(
            item, active.batch.request, user, spare_candidates=self._spare_candidates
        )
        active.backlog[item.user_id] += sum(trace.verdict == "accepted" for trace in result.traces)
        return result

    async def _snapshot(self, active: ActiveBatch, user_id: str) -> UserSnapshot:
        """Return the user's snapshot. The first engagement reads it; the others of the batch share it."""
        async with active.snapshot_lock:
            if user_id not in active.snapshots:
                active.snapshots[user_id] = await self._processor.read_user(user_id)
            return active.snapshots[user_id]

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
            log.exception("batch failed", batch=active.batch.id)
            self._start_end(active, "failed", f"{type(error).__name__}: {error}")

    def _start_end(self, active: ActiveBatch, state: BatchState, error: str | None = None) -> None:
        """End a batch, in a task of its own: it cancels the batch's tasks, and waits for a store that is away."""
        batch_id = active.batch.id
        if self._active.get(batch_id) is not active:
            return
        del self._active[batch_id]
        self._scheduler.drop(batch_id)
        task = self._supervisor.start_job("batch ends", partial(self._end, active, state, error))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, active: ActiveBatch, state: BatchState, error: str | None) -> None:
        await self._cancel_tasks(active)
        with contextlib.suppress(RecordNotFound):
            await self._results.end(active.batch.id)
            await self._store.batches.finish(active.batch.id, state, error)
        await self._notify_watchers()

    async def _stop_work(self, batch_id: str) -> None:
        """Stop this server's work on a batch; the store does not change."""
        active = self._active.pop(batch_id)
        self._scheduler.drop(batch_id)
        await self._cancel_tasks(active)
        await self._results.end(batch_id)

    async def _cancel_tasks(self, active: ActiveBatch) -> None:
        tasks = list(active.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._wake.set()
