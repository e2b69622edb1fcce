from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mindprint_server.engine import AdapterRef
from mindprint_server.engine.slots import ActiveAdapterLimiter


def ref(number: int) -> AdapterRef:
    return AdapterRef("user/ann", number, "d", number, Path("."))


async def test_one_adapter_more_than_slots_waits_until_one_is_done() -> None:
    slots, inside, go = ActiveAdapterLimiter(2), [], asyncio.Event()

    async def work(number: int | None) -> None:
        async with slots.acquire(None if number is None else ref(number)):
            inside.append(number)
            await go.wait()

    tasks = [asyncio.create_task(work(number)) for number in (1, 2, 3, 1, None)]
    await asyncio.sleep(0.01)
    assert inside == [1, 2, 1, None]
    go.set()
    await asyncio.gather(*tasks)
    assert inside == [1, 2, 1, None, 3]


async def test_who_is_cancelled_while_waiting_or_working_leaves_its_slot() -> None:
    slots = ActiveAdapterLimiter(1)

    async def work(number: int) -> None:
        async with slots.acquire(ref(number)):
            await asyncio.sleep(60)

    working = asyncio.create_task(work(1))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(work(2))
    await asyncio.sleep(0.01)
    for task in (waiting, working):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(1), slots.acquire(ref(3)):
        pass


async def test_busy_adapters_free_a_slot_for_a_waiting_one() -> None:
    slots, stop = ActiveAdapterLimiter(2, max_starvation_s=0.05), asyncio.Event()

    async def busy(number: int) -> None:
        while not stop.is_set():
            async with slots.acquire(ref(number)):
                await asyncio.sleep(0.003)

    crowd = [asyncio.create_task(busy(1 + n % 2)) for n in range(6)]
    await asyncio.sleep(0.01)
    async with asyncio.timeout(2), slots.acquire(ref(3)):
        stop.set()
    await asyncio.gather(*crowd)
