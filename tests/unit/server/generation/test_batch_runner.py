"""What could stop a batch, or keep one going that has ended, on the fake engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mindprint.types import Batch, BatchRequest, Mode
from mindprint_server.exceptions import Invalid
from mindprint_server.generation.scheduler import Item
from mindprint_server.settings import Settings
from mindprint_server.store import StoreBusy
from mindprint_server.store.batch_claims import ItemKey, OpenBatch
from mindprint_server.wiring import Services
from samples import engagement
from scripted import Scripted, serving


async def fill(services: Services, user: str, count: int) -> None:
    """A history that no other user has."""
    await services.store.engagements.add(
        user, [engagement(n).model_copy(update={"prompt": f"Does {user} walk number {n}?"}) for n in range(count)]
    )


async def finished(services: Services, request: BatchRequest) -> Batch:
    batch, _ = await services.batches.submit(request)
    async with asyncio.timeout(10):
        async for state in services.batches.watch(batch.id):
            batch = state
    return batch


async def test_some_users_may_be_done_before_others_have_their_profiles(settings: Settings, base_folder: Path) -> None:
    few = settings.model_copy(update={"profiles_at_once": 2, "candidates": 1})
    async with serving(few, Scripted(folder=base_folder, delay_s=0.01)) as services:
        for number in range(8):
            await fill(services, f"u{number}", 2 if number % 2 else 12)
        batch = await finished(services, BatchRequest())
    assert (batch.state, batch.error) == ("done", None)
    assert batch.done == 4 * 2 + 4 * 12


@pytest.mark.parametrize("mode", ["direct", "generic"])
async def test_of_the_modes_that_are_not_for_the_queue_one_of_each_is_enough(services: Services, mode: Mode) -> None:
    await fill(services, "ann", 5)
    batch = await finished(services, BatchRequest(mode=mode))
    traces = await services.store.traces.find(batch=batch.id)
    assert Counter(trace.engagement_id for trace in traces) == {f"e{n:03d}": 1 for n in range(1, 5)}


@pytest.mark.parametrize("mode", ["direct", "generic"])
async def test_traces_of_other_modes_do_not_stand_for_personal_ones(services: Services, mode: Mode) -> None:
    await fill(services, "ann", 6)
    await finished(services, BatchRequest(mode=mode))
    assert (await finished(services, BatchRequest())).items == 6


async def test_a_batch_cancelled_as_it_begins_is_not_worked_on(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(services, "ann", 5)
    claim = services.store.batch_claims.claim

    async def cancelled_after(batch_id: str, *args: Any, **kwargs: Any) -> list[ItemKey]:
        claimed = await claim(batch_id, *args, **kwargs)
        await services.batches.cancel(batch_id)
        return claimed

    monkeypatch.setattr(services.store.batch_claims, "claim", cancelled_after)
    assert (await finished(services, BatchRequest())).state == "cancelled"
    await asyncio.sleep(0.1)
    assert await services.store.traces.find() == []


async def test_a_database_that_is_busy_for_a_moment_does_not_stop_the_batches(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(services, "ann", 5)
    look = services.store.batch_claims.list_open
    answers = iter([StoreBusy("another process is writing")])

    async def busy_once() -> list[OpenBatch]:
        for error in answers:
            raise error
        return await look()

    monkeypatch.setattr(services.store.batch_claims, "list_open", busy_once)
    assert (await finished(services, BatchRequest())).state == "done"


async def test_a_batch_that_ends_while_the_server_stops_another_does_not_break_the_stop(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, go, begun = services.batches, asyncio.Event(), list[Item]()
    process, end = runner._processor.process, runner._results.end

    async def process_when_told(item: Item, *args: Any, **kwargs: Any) -> Any:
        begun.append(item)
        await go.wait()
        return await process(item, *args, **kwargs)

    async def end_after_the_others(batch_id: str) -> None:
        go.set()
        async with asyncio.timeout(10):
            while runner._active:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await end(batch_id)

    monkeypatch.setattr(runner._processor, "process", process_when_told)
    monkeypatch.setattr(runner._results, "end", end_after_the_others)
    for user in ("ann", "bob"):
        await fill(services, user, 1)
        await runner.submit(BatchRequest(users=[user]))
    async with asyncio.timeout(10):
        while len(begun) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await runner.stop()
    assert runner.held == set()


async def test_a_user_whose_engagements_go_before_the_profile_is_written_does_not_stop_the_batch(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(services, "ann", 60)
    await fill(services, "bob", 3)
    read = services.store.engagements.list_history

    async def erased_before(user_id: str, **kwargs: Any) -> Any:
        return [] if user_id == "ann" and kwargs["limit"] == 60 else await read(user_id, **kwargs)

    monkeypatch.setattr(services.store.engagements, "list_history", erased_before)
    batch = await finished(services, BatchRequest())
    assert (batch.state, batch.error) == ("done", None)
    with pytest.raises(Invalid, match="no engagements"):
        await services.profiles.renew("ann")
