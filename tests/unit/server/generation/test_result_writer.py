"""Finished items are committed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mindprint_server.generation import result_writer as module
from mindprint_server.generation.result_writer import ResultWriter
from mindprint_server.operation.supervision import Supervisor
from mindprint_server.settings import OperationSettings
from mindprint_server.store import StoreBusy
from mindprint_server.store.batches import DroppedResult, DropReason, ItemResult


class Slowly:
    """A store whose commits wait while `go` is not set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.begun = asyncio.Event()
        self.calls: list[tuple[list[str], dict[str, float]]] = []
        self.gone: set[str] = set()
        self.failing: Exception | None = None
        self.told = 0
        self.batches = self

    async def finish_items(
        self, done: Sequence[ItemResult], seconds: Mapping[str, float], *, owner: str | None = None
    ) -> list[DroppedResult]:
        self.calls.append(([item.engagement_id for item in done], dict(seconds)))
        self.begun.set()
        await self.go.wait()
        if self.failing is not None:
            raise self.failing
        return [DroppedResult(item, "gone") for item in done if item.engagement_id in self.gone]

    async def tell(self) -> None:
        self.told += 1

    @property
    def written(self) -> list[list[str]]:
        return [ids for ids, _ in self.calls]


def done(id: str, batch: str = "b") -> ItemResult:
    return ItemResult(batch, "ann", id, "rejected")


@pytest.fixture
async def store() -> Slowly:
    return Slowly()


@pytest.fixture
async def commits(store: Slowly) -> AsyncIterator[ResultWriter]:
    supervisor = Supervisor(OperationSettings(), lambda task, reason: None)
    commits = ResultWriter(cast(Any, store), store.tell, supervisor=supervisor)
    commits.start()
    yield commits
    store.go.set()
    await commits.stop()


def put(commits: ResultWriter, *ids: str) -> list[asyncio.Task[DropReason | None]]:
    return [asyncio.create_task(commits.write(done(id))) for id in ids]


async def while_one_is_written(
    commits: ResultWriter, store: Slowly, *ids: str
) -> list[asyncio.Task[DropReason | None]]:
    """The first is being written while the others come."""
    store.go.clear()
    tasks = put(commits, ids[0])
    await store.begun.wait()
    tasks += put(commits, *ids[1:])
    await asyncio.sleep(0)
    return tasks


async def test_one_item_is_committed_at_once(commits: ResultWriter, store: Slowly) -> None:
    assert await commits.write(done("a")) is None
    assert (store.written, store.told) == ([["a"]], 1)


async def test_what_finishes_while_a_commit_is_written_is_the_next_commit(commits: ResultWriter, store: Slowly) -> None:
    tasks = await while_one_is_written(commits, store, *"abcdef")
    assert not any(task.done() for task in tasks)
    store.go.set()
    assert await asyncio.gather(*tasks) == [None] * 6
    assert (store.written, store.told) == ([["a"], ["b", "c", "d", "e", "f"]], 2)


async def test_write_returns_why_only_for_the_item_that_was_dropped(commits: ResultWriter, store: Slowly) -> None:
    store.gone = {"b"}
    assert await asyncio.gather(*put(commits, *"abc")) == [None, "gone", None]


async def test_callers_know_of_a_commit_before_those_who_wait_for_it_go_on(
    commits: ResultWriter, store: Slowly
) -> None:
    await commits.wait_for_commit()
    tasks = await while_one_is_written(commits, store, "a")
    waiting = asyncio.create_task(commits.wait_for_commit())
    await asyncio.sleep(0)
    assert not waiting.done()
    store.go.set()
    await waiting
    assert tasks[0].done()


async def test_an_error_of_the_store_reaches_all_its_callers_and_the_next_commit_works(
    commits: ResultWriter, store: Slowly
) -> None:
    store.failing = RuntimeError("the disk is full")
    results = await asyncio.gather(*put(commits, *"abc"), return_exceptions=True)
    assert results == [store.failing] * 3
    assert store.told == 0
    store.failing = None
    assert await commits.write(done("d")) is None


async def test_a_busy_database_is_asked_again(commits: ResultWriter, store: Slowly) -> None:
    store.failing = StoreBusy("another process is writing")
    tasks = put(commits, *"ab")
    await asyncio.wait(tasks, timeout=0.05)
    assert not any(task.done() for task in tasks)
    store.failing = None
    assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [None, None]
    assert [sorted(ids) for ids in store.written] == [["a", "b"]] * 2


async def test_a_cancelled_caller_harms_nobody(commits: ResultWriter, store: Slowly) -> None:
    first, second, third = await while_one_is_written(commits, store, *"abc")
    first.cancel()  # it is being written
    second.cancel()  # it waits
    store.go.set()
    assert await third is None
    assert first.cancelled()
    assert second.cancelled()
    assert await commits.write(done("d")) is None


async def test_a_cancelled_caller_does_not_miss_an_error(commits: ResultWriter, store: Slowly) -> None:
    first, second = await while_one_is_written(commits, store, *"ab")
    store.failing = RuntimeError("no luck")
    first.cancel()
    store.go.set()
    with pytest.raises(RuntimeError, match="no luck"):
        await second


async def test_stopping_leaves_no_caller_waiting(commits: ResultWriter, store: Slowly) -> None:
    tasks = await while_one_is_written(commits, store, *"ab")
    await commits.stop()
    _, waiting = await asyncio.wait(tasks, timeout=0.1)
    for task in waiting:
        task.cancel()
    assert not waiting
    assert all(task.cancelled() for task in tasks)


async def test_seconds_are_counted_for_each_batch_from_commit_to_commit(
    commits: ResultWriter, store: Slowly, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    commits.begin("one")
    clock.now += 3
    commits.begin("two")
    clock.now += 2
    await commits.write(done("a", "one"))
    clock.now += 1
    await asyncio.gather(commits.write(done("b", "one")), commits.write(done("c", "two")))
    await commits.write(done("d", "never begun"))
    clock.now += 4
    await commits.end("one")
    await commits.write(done("e", "one"))
    assert [seconds for _, seconds in store.calls] == [{"one": 5}, {"one": 1, "two": 3}, {}, {"one": 4}, {}]
