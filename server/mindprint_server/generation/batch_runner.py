"""Runs durable batches: takes what the planner hands out through the engine, as much at once as the engine can take."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog

from mindprint.types import Batch, BatchRequest
from mindprint_server.context import ServerContext
from mindprint_server.engine import EngineDied
from mindprint_server.exceptions import ApiError
from mindprint_server.generation.candidate import Writer
from mindprint_server.generation.concurrency import ConcurrencyLimiter
from mindprint_server.generation.engagement import EngagementProcessor, UserSnapshot
from mindprint_server.generation.result_writer import ResultWriter
from mindprint_server.generation.scheduler import EngagementScheduler, Item
from mindprint_server.memory import MemoryService
from mindprint_server.store import Busy, NotFound

log = structlog.get_logger(__name__)

FINAL = frozenset({"done", "failed", "cancelled"})


@dataclass
class ActiveBatch:
    """An open batch that is being worked on."""

    batch: Batch
    left: int
    """Items that are not done."""
    users: dict[str, list[Item]]
    backlog: Counter[str]
    """Accepted traces that wait, by user. What trainers take meanwhile is not subtracted, and what is in flight has
    passed already: the bound may come early, or late by what is in flight."""
    known: dict[str, UserSnapshot] = field(default_factory=dict)
    """Of the users that are being worked on, and no others: it holds their histories."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class BatchRunner:
    def __init__(
        self, ctx: ServerContext, *, memory: MemoryService, writer: Writer, attempts: EngagementProcessor
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._memory = memory
        self._writer = writer
        self._attempts = attempts
        self._metrics = ctx.metrics
        self._planner = EngagementScheduler(
            per_user=ctx.settings.batch_per_user, patience_s=ctx.settings.batch_patience_s
        )
        self._inflight = ConcurrencyLimiter(slots=ctx.settings.max_num_seqs, most=ctx.settings.batch_inflight)
        self._commits = ResultWriter(ctx.store, self._tell)
        self._jobs: dict[str, ActiveBatch] = {}
        self._work = asyncio.Event()
        self._new = True
        self._died: EngineDied | None = None
        self._failing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    # --- from outside ---

    async def submit(self, request: BatchRequest) -> tuple[Batch, bool]:
        """Plans and stores a batch; True if it is new.

        Raises NotFound (user), QueueFull, IdempotencyConflict, ApiError (422: it wants hints where none are given).
        """
        if request.blind == 0 and request.hints is None and not self._settings.hints:
            message = "blind=0 shows the writer the answer, and this server gives no hints: send hints=true with it"
            raise ApiError(422, "validation_error", message, param="blind")
        plan = await self._store.traces.list_untraced(request.users, self._settings.holdout)
        batch, created = await self._store.batches.add(request, plan, max_open=self._settings.max_open_batches)
        self._new = True
        self._work.set()
        return batch, created

    async def cancel(self, batch_id: str) -> Batch:
        """Ends a batch; what it has written stays. A batch that has ended stays as it is."""
        batch = await self._store.batches.cancel(batch_id)
        if batch_id in self._jobs:
            await self._abandon(batch_id)
            log.info("batch cancelled", batch=batch_id)
        await self._tell()
        return await self._store.batches.get(batch_id) if batch.state == "cancelled" else batch

    async def watch(self, batch_id: str) -> AsyncIterator[Batch]:
        """The batch now and after each change, at most one in `watch_interval_s`; ends with a final state."""
        while True:
            batch = await self._store.batches.get(batch_id)
            yield batch
            if batch.state in FINAL:
                return
            await asyncio.sleep(self._settings.watch_interval_s)
            async with self._changed:
                # A change may have come during the sleep, so this wait is bounded too.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._settings.watch_interval_s)

    async def start(self) -> None:
        self._commits.start()
        self._task = asyncio.create_task(self._run_for_ever(), name="batches")

    async def stop(self) -> None:
        """Stops between commits; open batches go on at the next start."""
        if self._task is not None:
            self._task.cancel()
            # A dead engine has ended the task already, with an error that is known by now.
            await asyncio.gather(self._task, return_exceptions=True)
        for batch_id in list(self._jobs):
            await self._abandon(batch_id)
        await self._commits.stop()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- the loop ---

    async def _run_for_ever(self) -> None:
        while True:
            self._work.clear()
            if self._died is not None:
                # The process ends; the batches are still `running` in the store and go on at the next start.
                raise self._died
            if self._new:
                await self._pick_up()
            self._hand_out()
            # While there is work the engine is looked at again and again: its room changes without an item ending.
            interval = self._settings.plan_interval_s if self._jobs or self._new else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), interval)

    async def _pick_up(self) -> None:
        try:
            self._new = False
            for batch in await self._store.batches.list_open():
                if batch.id not in self._jobs:
                    await self._open(batch)
        except Busy as error:
            log.warning("batches not picked up yet", why=str(error))
            self._new = True

    async def _open(self, batch: Batch) -> None:
        await self._store.batches.start(batch.id)
        if (await self._store.batches.get(batch.id)).state in FINAL:
            return  # cancelled in between
        users: dict[str, list[Item]] = {}
        for user_id, engagement_id in await self._store.batches.list_pending_items(batch.id):
            users.setdefault(user_id, []).append(Item(batch.id, user_id, engagement_id))
        waiting = Counter(
            {key.removeprefix("user/"): count for key, count in (await self._store.traces.count_waiting()).items()}
        )
        job = ActiveBatch(batch, sum(map(len, users.values())), users, waiting)
        self._jobs[batch.id] = job
        self._commits.begin(batch.id)
        if not job.left:
            return await self._close(job)
        todo = iter(list(users))
        for _ in range(min(self._settings.profiles_at_once, len(users))):
            self._spawn(job, self._prepare(job, todo))

    def _hand_out(self) -> None:
        load = self._engine.stats()
        limit = self._inflight.observe(load)
        self._metrics.inflight.set(self._planner.running)
        self._metrics.see(load)
        now = time.monotonic()
        for item in self._planner.take(limit - self._planner.running, now):
            job = self._jobs[item.batch_id]
            self._spawn(job, self._attempt(job, item))

    def _spare(self) -> int:
        """Candidates that each running engagement may draw at once: at a batch's end the slots would stay empty."""
        if self._planner.left or not self._planner.running:
            return 0
        return int(self._settings.max_num_seqs * self._settings.batch_spare) // self._planner.running

    def _spawn(self, job: ActiveBatch, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        job.tasks.add(task)
        task.add_done_callback(job.tasks.discard)

    async def _prepare(self, job: ActiveBatch, users: Iterator[str]) -> None:
        """Writes the profiles that a user's traces read, a few users at a time, before these go to the planner."""
        with self._guarding(job):
            for user_id in users:
                with contextlib.suppress(NotFound):  # erased meanwhile: each of the items will say so
                    await self._memory.ensure_profiles(user_id)
                self._planner.add(job.users[user_id], time.monotonic())
                self._work.set()

    async def _attempt(self, job: ActiveBatch, item: Item) -> None:
        with self._guarding(job):
            try:
                if job.backlog[item.user_id] >= self._settings.max_backlog:
                    done = self._attempts.skipped(item, "backlog_full")
                else:
                    known = await self._know(job, item.user_id)
                    done = await self._attempts.at(item, job.batch.request, known, self._spare)
                    job.backlog[item.user_id] += sum(trace.verdict == "accepted" for trace in done.traces)
            finally:
                self._planner.finished(item)
                self._work.set()
            if not await self._commits.put(done) and done.outcome != "erased":
                self._metrics.skipped.labels(reason="erased").inc()
            job.left -= 1
            job.users[item.user_id].remove(item)
            if not job.users[item.user_id]:
                del job.users[item.user_id]
                job.known.pop(item.user_id, None)
            if not job.left:
                await self._close(job)

    async def _know(self, job: ActiveBatch, user_id: str) -> UserSnapshot:
        """Read once, by whichever of the user's engagements comes first."""
        async with job.reading:
            if user_id not in job.known:
                timeline = await self._memory.timeline(user_id)
                job.known[user_id] = UserSnapshot(timeline, await self._writer.accepted(user_id))
            return job.known[user_id]

    @contextlib.contextmanager
    def _guarding(self, job: ActiveBatch) -> Iterator[None]:
        """A fault in one item fails its batch, and blocks nobody else's."""
        try:
            yield
        except EngineDied as error:
            self._died = error
            self._work.set()
        except Exception as error:
            log.exception("batch failed", batch=job.batch.id)
            # In a task of its own, for it ends the one that it is called from.
            task = asyncio.create_task(self._fail(job, f"{type(error).__name__}: {error}"))
            self._failing.add(task)
            task.add_done_callback(self._failing.discard)

    async def _fail(self, job: ActiveBatch, why: str) -> None:
        if self._jobs.get(job.batch.id) is job:
            await self._abandon(job.batch.id)
            await self._store.batches.finish(job.batch.id, "failed", why)
            await self._tell()

    async def _close(self, job: ActiveBatch) -> None:
        self._jobs.pop(job.batch.id, None)
        await self._commits.end(job.batch.id)
        await self._store.batches.finish(job.batch.id, "done")
        await self._tell()

    async def _abandon(self, batch_id: str) -> None:
        """Stops work on a batch here; its items stay as they are in the store."""
        job = self._jobs.pop(batch_id)
        self._planner.drop(batch_id)
        tasks = list(job.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._commits.end(batch_id)
        self._work.set()
