"""Background work that fails: waits, counts, and what is known of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from mindprint_server.exceptions import Busy, Invalid
from mindprint_server.operation.supervision import Supervisor, describe, reason_of, retry_delay_s
from mindprint_server.settings import OperationSettings
from mindprint_server.store import StoreBusy, StoreFull

FAST = OperationSettings(retry_min_s=0.001, retry_max_s=0.002, max_failing_s=5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A supervisor on a clock of the test, with what it counted."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.supervisor = Supervisor(FAST, lambda *labels: self.counts.update([labels]), clock=self.clock)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def failing(*errors: Exception, then: bool = False) -> Callable[[], Awaitable[bool]]:
    """Work that raises each of the errors once, then returns."""
    left = list(errors)

    async def work() -> bool:
        await asyncio.sleep(0)
        if left:
            raise left.pop(0)
        return then

    return work


async def nothing() -> None:
    await asyncio.sleep(0)


def test_wait_doubles_and_is_bounded_and_spread() -> None:
    waits = [retry_delay_s(tries, min_s=0.1, max_s=1, jitter=1.0) for tries in (1, 2, 3, 4, 5, 900)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1, 1]
    assert retry_delay_s(1, min_s=0.1, max_s=1, jitter=0.0) == 0.05


async def test_retry_passes_over_errors_that_pass_and_counts_them(counted: Counted) -> None:
    work = failing(StoreBusy("locked"), StoreFull(), StoreBusy("locked"), then=True)
    with capture_logs() as lines:
        assert await counted.supervisor.retry("items", work) is True
    assert counted.counts == {("items", "store_busy"): 2, ("items", "storage_full"): 1}
    assert [(line["task"], line["kind"], line["tries"]) for line in lines] == [
        ("items", "store_busy", 1),
        ("items", "storage_full", 2),
        ("items", "store_busy", 3),
    ]


async def test_retry_raises_other_errors_at_once(counted: Counted) -> None:
    with pytest.raises(Invalid):
        await counted.supervisor.retry("items", failing(Invalid("wrong", "wrong")))
    assert not counted.counts


async def test_loop_outlives_any_error_of_a_step_and_of_a_pause(counted: Counted) -> None:
    step = failing(RuntimeError("odd"), ValueError("odder"))
    await asyncio.wait_for(counted.supervisor.start_loop("batches", step, nothing), 5)
    turns = iter([True, False])

    async def twice() -> bool:
        return next(turns)

    await asyncio.wait_for(counted.supervisor.start_loop("batches", twice, failing(OSError("odd"))), 5)
    assert counted.counts == {(("batches"), name): 1 for name in ("RuntimeError", "ValueError", "OSError")}


async def test_job_is_done_again_until_it_returns(counted: Counted) -> None:
    group = ExceptionGroup("several", [ValueError("odd"), RuntimeError("odder")])
    assert await counted.supervisor.start_job("replays", failing(group, then=True)) is True
    assert counted.counts == {("replays", "ValueError"): 1}


async def test_failing_names_a_task_after_the_bound_and_until_it_works(counted: Counted) -> None:
    gate = asyncio.Event()

    async def work() -> None:
        if not gate.is_set():
            raise StoreBusy("locked")

    job = counted.supervisor.start_job("batches", work)
    while not counted.counts:  # noqa: ASYNC110
        await asyncio.sleep(0)
    counted.clock.now += FAST.max_failing_s - 0.1
    assert counted.supervisor.failing() == {}
    counted.clock.now += 0.1
    assert list(counted.supervisor.failing()) == ["batches"]
    assert "locked" in counted.supervisor.failing()["batches"]
    gate.set()
    await job
    assert counted.supervisor.failing() == {}


async def test_work_of_one_user_that_fails_is_counted_and_not_named(counted: Counted) -> None:
    gate = asyncio.Event()

    async def work() -> None:
        if not gate.is_set():
            raise RuntimeError("odd")

    job = counted.supervisor.start_job("publication", work, affects_readiness=False)
    while not counted.counts:  # noqa: ASYNC110
        await asyncio.sleep(0)
    counted.clock.now += 10 * FAST.max_failing_s
    assert counted.supervisor.failing() == {}
    gate.set()
    await job
    assert counted.counts["publication", "RuntimeError"] >= 1


async def test_try_that_runs_for_longer_than_the_bound_is_no_longer_failing(counted: Counted) -> None:
    """Some work takes minutes, such as an item of a batch: it is not failing because a call failed before."""
    tries, goes_on = iter([StoreBusy("locked")]), asyncio.Event()

    async def work() -> None:
        if error := next(tries, None):
            raise error
        goes_on.set()
        await asyncio.Event().wait()

    job = counted.supervisor.start_job("items", work)
    await goes_on.wait()
    counted.clock.now += FAST.max_failing_s
    assert list(counted.supervisor.failing()) == ["items"]
    counted.clock.now += 0.1
    assert counted.supervisor.failing() == {}
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


async def test_retry_that_takes_as_long_as_one_that_failed_stays_failing(counted: Counted) -> None:
    """Connects that fail only after a time-out: the next one is not taken for one that works."""
    took_s, goes_on = iter([20, 20]), asyncio.Event()

    async def work() -> None:
        if duration := next(took_s, None):
            counted.clock.now += duration
            raise StoreBusy("it does not answer in time")
        goes_on.set()
        await asyncio.Event().wait()

    job = counted.supervisor.start_job("items", work)
    await goes_on.wait()
    counted.clock.now += 20
    assert list(counted.supervisor.failing()) == ["items"]
    counted.clock.now += 1
    assert counted.supervisor.failing() == {}
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


async def test_step_that_goes_on_is_not_failing_once_it_says_that_it_works(counted: Counted) -> None:
    tries, works, ends = iter([StoreBusy("away")]), asyncio.Event(), asyncio.Event()

    async def listen() -> bool:
        if error := next(tries, None):
            raise error
        counted.supervisor.note_success("notifications")
        works.set()
        await ends.wait()
        raise StoreBusy("away again")

    loop = counted.supervisor.start_loop("notifications", listen, nothing)
    await works.wait()
    counted.clock.now += FAST.max_failing_s
    assert counted.supervisor.failing() == {}
    ends.set()
    while counted.counts["notifications", "store_busy"] < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert counted.supervisor.failing() == {}, "the time is that of the later failure"
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_cancelled_work_does_not_stay_failing(counted: Counted) -> None:
    job = counted.supervisor.start_job("batches", failing(*[RuntimeError("odd")] * 10_000))
    while not counted.counts:  # noqa: ASYNC110
        await asyncio.sleep(0)
    counted.clock.now += 60
    assert counted.supervisor.failing() == {"batches": "RuntimeError"}
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert counted.supervisor.failing() == {}


async def test_only_the_first_of_many_that_fail_at_once_is_logged(counted: Counted) -> None:
    with capture_logs() as lines:
        await asyncio.gather(*(counted.supervisor.retry("items", failing(StoreBusy("locked"))) for _ in range(50)))
    assert counted.counts == {("items", "store_busy"): 50}
    assert len(lines) == 1


def test_text_of_an_unexpected_error_is_not_shown() -> None:
    assert (reason_of(ValueError("what Ann said")), describe(ValueError("what Ann said"))) == ("ValueError",) * 2
    busy = Busy("adapters_busy", "every place is in use")
    assert (reason_of(busy), describe(busy)) == ("adapters_busy", "every place is in use")
