"""Runs durable batches: many engagements at once through the engine, each one's traces and outcome in one commit."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import structlog

from mindprint.types import Batch, BatchRequest, Trace
from mindprint_server.engine import EngineDied, Priority, PromptTooLong
from mindprint_server.memory import Memory
from mindprint_server.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import NotFound, Store
from mindprint_server.writer import Question, Style, Writer

log = structlog.get_logger(__name__)

FINAL = frozenset({"done", "failed", "cancelled"})
Item = tuple[str, str]


class Skip(Exception):
    """An item that cannot be attempted, with its reason for the funnel."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BatchRunner:
    def __init__(self, settings: Settings, store: Store, memory: Memory, writer: Writer, metrics: Metrics) -> None:
        self._settings = settings
        self._store = store
        self._memory = memory
        self._writer = writer
        self._metrics = metrics
        self._work = asyncio.Event()
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._running: tuple[str, asyncio.Task[None]] | None = None

    # --- from outside ---

    async def submit(self, request: BatchRequest) -> tuple[Batch, bool]:
        """Plans and stores a batch; True if it is new. Raises NotFound (user), QueueFull, IdempotencyConflict."""
        plan = await self._store.untraced(request.users)
        batch, created = await self._store.add_batch(request, plan, max_open=self._settings.max_open_batches)
        self._work.set()
        return batch, created

    async def cancel(self, batch_id: str) -> Batch:
        """Ends a batch; what it has written stays. A batch that has ended stays as it is."""
        batch = await self._store.cancel_batch(batch_id)
        if self._running is not None and self._running[0] == batch_id:
            self._running[1].cancel()
        await self._tell()
        return batch

    async def watch(self, batch_id: str) -> AsyncIterator[Batch]:
        """The batch now and after each change, at most one in `watch_interval_s`; ends with a final state."""
        while True:
            batch = await self._store.batch(batch_id)
            yield batch
            if batch.state in FINAL:
                return
            await asyncio.sleep(self._settings.watch_interval_s)
            async with self._changed:
                # A change may have come during the sleep, so this wait is bounded too.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._settings.watch_interval_s)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run_for_ever(), name="batches")

    async def stop(self) -> None:
        """Stops between commits; open batches go on at the next start."""
        if self._task is not None:
            self._task.cancel()
            # A dead engine has ended the task already, with an error that is known by now.
            await asyncio.gather(self._task, return_exceptions=True)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- the loop ---

    async def _run_for_ever(self) -> None:
        while True:
            self._work.clear()
            batches = await self._store.open_batches()
            for batch in batches:
                await self._run(batch)
            if not batches:
                await self._work.wait()

    async def _run(self, batch: Batch) -> None:
        task = asyncio.create_task(self._attempt_all(batch))
        self._running = (batch.id, task)
        try:
            await task
        except asyncio.CancelledError:
            if (current := asyncio.current_task()) is not None and current.cancelling():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                raise
            log.info("batch cancelled", batch=batch.id)
        except EngineDied:
            # The process ends; the batch is still `running` in the store and goes on at the next start.
            raise
        except Exception as error:
            log.exception("batch failed", batch=batch.id)
            await self._store.finish_batch(batch.id, "failed", f"{type(error).__name__}: {error}")
        finally:
            self._running = None
            await self._tell()

    async def _attempt_all(self, batch: Batch) -> None:
        await self._store.start_batch(batch.id)
        items = await self._store.pending_items(batch.id)
        clock = _BusyClock(self._store, batch.id)
        profiles = self._profiles(items)
        backlog = Counter(await self._store.backlog())
        todo = iter(items)
        workers = [
            asyncio.create_task(self._worker(batch, todo, profiles, backlog, clock))
            for _ in range(self._settings.batch_inflight)
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            tasks = [*workers, *profiles.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await clock.tick()
        await self._store.finish_batch(batch.id, "done")

    def _profiles(self, items: list[Item]) -> dict[str, asyncio.Task[int]]:
        """Profiles are written ahead of the traces that read them, a few users at a time, in plan order."""
        gate = asyncio.Semaphore(self._settings.profiles_at_once)

        async def write(user_id: str) -> int:
            async with gate:
                return await self._memory.ensure_profiles(user_id)

        return {user_id: asyncio.create_task(write(user_id)) for user_id in dict.fromkeys(user for user, _ in items)}

    async def _worker(
        self,
        batch: Batch,
        todo: Iterator[Item],
        profiles: dict[str, asyncio.Task[int]],
        backlog: Counter[str],
        clock: _BusyClock,
    ) -> None:
        for user_id, engagement_id in todo:
            try:
                # What trainers take meanwhile is not subtracted, and engagements in flight have passed already: the
                # bound may come early, or late by what is in flight.
                if backlog[f"user/{user_id}"] >= self._settings.max_backlog:
                    raise Skip("backlog_full")
                await asyncio.shield(profiles[user_id])
                traces = await self._attempt(batch, user_id, engagement_id)
                accepted = sum(trace.verdict == "accepted" for trace in traces)
                backlog[f"user/{user_id}"] += accepted
                outcome = "accepted" if accepted else "rejected"
            except Skip as skip:
                traces, outcome = [], skip.reason
                self._metrics.skipped.labels(reason=outcome).inc()
            await self._store.finish_item(
                batch.id,
                user_id,
                engagement_id,
                traces=traces,
                outcome=outcome,
            )
            await clock.tick()
            await self._tell()

    # --- one engagement ---

    async def _attempt(self, batch: Batch, user_id: str, engagement_id: str) -> list[Trace]:
        """Draws candidates until one is accepted or there are `candidates` of them. Raises Skip, EngineDied."""
        try:
            question = await self._writer.about(user_id, engagement_id)
        except NotFound:
            raise Skip("erased") from None
        if reason := unfit(question):
            raise Skip(reason)
        most = batch.request.candidates or self._settings.candidates
        draw = batch.request.draw or self._settings.draw
        traces: list[Trace] = []
        try:
            while len(traces) < most and not any(trace.verdict == "accepted" for trace in traces):
                numbers = range(len(traces), min(len(traces) + draw, most))
                traces += await asyncio.gather(
                    *(self._writer.draft(question, self._style(batch, question, number), None) for number in numbers)
                )
        except PromptTooLong:
            raise Skip("prompt_too_long") from None
        except ValueError:
            raise Skip("choices_alike") from None
        return traces

    def _style(self, batch: Batch, question: Question, number: int) -> Style:
        request = batch.request
        return Style(
            mode=request.mode,
            opening=self._writer.opening(request.mode),
            max_thinking_tokens=request.max_thinking_tokens or self._settings.max_thinking_tokens,
            temperature=self._settings.temperature if request.temperature is None else request.temperature,
            seed=seed_of(request.seed, question.user_id, question.engagement_id or "", number),
            # Only personal thinking is for the queue; the other modes are written to be looked at and compared.
            judge=request.mode == "personal",
            batch_id=batch.id,
            priority=Priority.BATCH,
        )


class _BusyClock:
    """Adds up the seconds in which a batch is being worked on, in the store, so that they survive a restart."""

    def __init__(self, store: Store, batch_id: str) -> None:
        self._store = store
        self._batch_id = batch_id
        self._since = time.monotonic()

    async def tick(self) -> None:
        now = time.monotonic()
        passed, self._since = now - self._since, now
        await self._store.add_busy_seconds(self._batch_id, passed)


def unfit(question: Question) -> str | None:
    """Why an engagement cannot be thought about, if so."""
    if not question.memory.episodes and not question.memory.profile:
        return "no_history"
    return "open_answer" if question.choices is None else None


def seed_of(*parts: int | str) -> int:
    """The same candidate gets the same seed in every run, and every candidate its own."""
    return int.from_bytes(hashlib.sha256("\x00".join(map(str, parts)).encode()).digest()[:4], "big") >> 1
