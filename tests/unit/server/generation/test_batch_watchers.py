"""Many callers watch batches at the cost of a few."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mindprint.types import Batch, BatchRequest
from mindprint_server.exceptions import LimitExceeded
from mindprint_server.generation import batch_watchers
from mindprint_server.generation.batch_watchers import BatchWatchers
from mindprint_server.settings import GenerationSettings
from mindprint_server.store import RecordNotFound, StoreBusy
from mindprint_server.tenancy import in_no_tenant
from mindprint_server.wiring import Services
from samples import engagement


class Batches:
    """A store of one batch; it counts how often it is read."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.errors: list[Exception] = []
        self.is_away = False
        self.reads = 0
        self.batches = self

    async def get(self, batch_id: str) -> Batch:
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreBusy("the connection was lost")
        if self.errors:
            raise self.errors.pop()
        if batch_id != self.batch.id:
            raise RecordNotFound("batch", batch_id)
        return self.batch.model_copy()

    def move(self, **changes: Any) -> None:
        self.batch = self.batch.model_copy(update=changes)


@pytest.fixture
async def batch(services: Services) -> Batch:
    await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
    batch, _ = await services.store.batches.add(BatchRequest(), [("ann", "e001")], max_open=9)
    return batch.model_copy(update={"state": "running"})


@pytest.fixture
def batches(batch: Batch) -> Batches:
    return Batches(batch)


def watchers_of(batches: Batches, **changes: Any) -> BatchWatchers:
    settings = GenerationSettings(watch_interval_s=0.02).model_copy(update=changes)
    return BatchWatchers(cast(Any, batches), settings)


async def _watch(watchers: BatchWatchers, batch_id: str) -> list[Batch]:
    return [batch async for batch in watchers.watch(batch_id)]


class Pauses:
    """The sleeps of a poller, each of which lasts until the test ends it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: asyncio.Queue[float] = asyncio.Queue()
        self._ends = asyncio.Semaphore(0)
        stand_in = SimpleNamespace(**vars(asyncio) | {"sleep": self._sleep})
        monkeypatch.setattr(batch_watchers, "asyncio", stand_in)

    async def _sleep(self, seconds: float) -> None:
        self.begun.put_nowait(seconds)
        await self._ends.acquire()

    async def end(self) -> None:
        """End the sleep that has begun, or begins next."""
        async with asyncio.timeout(10):
            await self.begun.get()
        self._ends.release()


async def settle() -> None:
    """Let all tasks run as far as they get by themselves."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [10, 1000])
async def test_reads_do_not_depend_on_the_number_of_watchers(
    batches: Batches, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, watchers = Pauses(monkeypatch), watchers_of(batches, max_watchers=1000, watch_interval_s=3600)
    watching = [asyncio.create_task(_watch(watchers, batches.batch.id)) for _ in range(count)]
    await settle()
    for tokens in range(1, 4):
        batches.move(generated_tokens=tokens)
        await pauses.end()
        watchers.notify()
        await settle()
    assert watchers.count == count
    batches.move(state="done")
    await pauses.end()
    watchers.notify()
    async with asyncio.timeout(20):
        seen = await asyncio.gather(*watching)
    told = [[(batch.state, batch.generated_tokens) for batch in states] for states in seen]
    tokens_seen = [0, 1, 2, 3]
    assert told == count * [[*(("running", tokens) for tokens in tokens_seen), ("done", 3)]]
    assert batches.reads == 5, "at first, and after each change"
    assert watchers.count == 0


async def test_change_of_this_server_is_read_without_waiting_for_the_next_poll(
    batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, watchers = Pauses(monkeypatch), watchers_of(batches, watch_interval_s=3600)
    watching = watchers.watch(batches.batch.id)
    await anext(watching)
    await pauses.end()
    waiting = asyncio.ensure_future(anext(watching))
    await settle()
    assert (batches.reads, waiting.done()) == (1, False), "nobody said that there is something to read"
    batches.move(generated_tokens=5)
    watchers.notify()
    async with asyncio.timeout(10):
        assert (await waiting).generated_tokens == 5
    await watching.aclose()


async def test_many_changes_within_an_interval_are_read_once(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, watchers = Pauses(monkeypatch), watchers_of(batches, watch_interval_s=3600)
    watching = watchers.watch(batches.batch.id)
    await anext(watching)
    waiting = asyncio.ensure_future(anext(watching))
    for tokens in range(1, 100):
        batches.move(generated_tokens=tokens)
        watchers.notify()
        await settle()
    assert (batches.reads, waiting.done()) == (1, False)
    await pauses.end()
    async with asyncio.timeout(10):
        assert (await waiting).generated_tokens == 99
    assert batches.reads == 2
    await watching.aclose()


async def test_watchers_that_leave_at_once_leave_nothing_behind(batches: Batches) -> None:
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    watchers = watchers_of(batches, max_watchers=1000)
    watching = [asyncio.create_task(_watch(watchers, batches.batch.id)) for _ in range(1000)]
    await asyncio.sleep(0.05)
    for turn, task in enumerate(watching):
        watchers.notify()
        batches.move(generated_tokens=turn)
        task.cancel()
    ended = await asyncio.gather(*watching, return_exceptions=True)
    assert {type(end) for end in ended} == {asyncio.CancelledError}
    assert watchers.count == 0
    before = batches.reads
    watchers.notify()
    await asyncio.sleep(0.1)
    assert batches.reads == before, "nobody watches, so nobody reads"
    assert not [task for task in asyncio.all_tasks() if task.get_name() == f"watch {batches.batch.id}"]
    assert failures == []


async def test_watcher_of_a_store_that_is_away_is_told_so_at_once(batches: Batches) -> None:
    batches.is_away = True
    watchers = watchers_of(batches)
    async with asyncio.timeout(20):
        with pytest.raises(StoreBusy):
            await anext(watchers.watch(batches.batch.id))
    assert watchers.count == 0
    batches.is_away = False
    assert (await anext(watchers.watch(batches.batch.id))).state == "running", "nothing is left of the failure"


async def test_watcher_that_has_seen_the_batch_waits_for_the_store(batches: Batches) -> None:
    watching = watchers_of(batches).watch(batches.batch.id)
    await anext(watching)
    batches.is_away = True
    waiting = asyncio.ensure_future(anext(watching))
    reads = batches.reads
    async with asyncio.timeout(20):
        while batches.reads < reads + 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not waiting.done()
        batches.move(state="done")
        batches.is_away = False
        assert (await waiting).state == "done"


async def test_more_than_max_watchers_are_refused(batches: Batches) -> None:
    watchers = watchers_of(batches, max_watchers=2)
    open = [watchers.watch(batches.batch.id) for _ in range(2)]
    for stream in open:
        await anext(stream)
    with pytest.raises(LimitExceeded) as refused:
        await anext(watchers.watch(batches.batch.id))
    assert refused.value.code == "too_many_watchers"
    await open.pop().aclose()
    stream = watchers.watch(batches.batch.id)
    assert (await anext(stream)).state == "running"
    for left in (*open, stream):
        await left.aclose()
    assert watchers.count == 0


async def test_later_watcher_gets_the_newest_state_without_a_read(batches: Batches) -> None:
    watchers = watchers_of(batches, watch_interval_s=60)
    first, second = watchers.watch(batches.batch.id), watchers.watch(batches.batch.id)
    assert await anext(first) == await anext(second)
    assert batches.reads == 1
    await first.aclose()
    await second.aclose()


async def test_busy_store_is_read_again_and_other_errors_end_the_watching(batches: Batches) -> None:
    watchers = watchers_of(batches)
    with pytest.raises(RecordNotFound):
        await anext(watchers.watch("nothing"))
    stream = watchers.watch(batches.batch.id)
    assert (await anext(stream)).state == "running"
    batches.errors = [RecordNotFound("batch", batches.batch.id), StoreBusy("another process is writing")]
    with pytest.raises(RecordNotFound):
        await anext(stream)
    assert watchers.count == 0


async def test_batch_of_another_server_is_seen(services: Services) -> None:
    await services.batches._claimer.stop()
    await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
    other = await type(services.store).open(services.settings.url)
    batch, _ = await other.batches.add(BatchRequest(), [("ann", "e001")], max_open=9)
    seen = asyncio.create_task(_watch_all(services, batch.id))
    await asyncio.sleep(0.05)
    await other.batch_claims.claim(batch.id, "other", limit=1, ttl_s=60)
    await asyncio.sleep(0.1)
    await other.batches.finish(batch.id, "done")
    async with asyncio.timeout(10):
        assert await seen == ["queued", "running", "done"]
    await other.close()


async def _watch_all(services: Services, batch_id: str) -> list[str]:
    return [batch.state async for batch in services.batches.watch(batch_id)]


async def test_stop_ends_all_watching(batches: Batches) -> None:
    watchers = watchers_of(batches)
    watching = [asyncio.create_task(_watch(watchers, batches.batch.id)) for _ in range(3)]
    await asyncio.sleep(0.05)
    watchers.stop()
    async with asyncio.timeout(10):
        seen = await asyncio.gather(*watching)
    assert [[batch.state for batch in states] for states in seen] == [["running"]] * 3
    before = batches.reads
    await asyncio.sleep(0.1)
    assert batches.reads == before


async def test_stream_that_is_closed_in_another_context_is_forgotten(batches: Batches, batch: Batch) -> None:
    watchers = watchers_of(batches)
    watched = watchers.watch(batch.id)
    await anext(watched)
    with in_no_tenant():
        await watched.aclose()
    assert watchers.count == 0
