from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import Busy, ServerError
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings


class Engine(FakeEngine):
    """Loads and unloads when it is let; remembers both, and refuses the adapters in `broken`."""

    def __init__(self) -> None:
        super().__init__(model_path=Path("nowhere"))
        self.held = asyncio.Event()
        self.held.set()
        self.slow: set[int] = set()
        self.broken: set[int] = set()
        self.done: list[str] = []
        self.most = 0

    async def load(self, adapter: AdapterRef) -> None:
        if adapter.engine_id in self.slow:
            await self.held.wait()
        if adapter.engine_id in self.broken:
            raise ValueError("bad files")
        await super().load(adapter)
        self.most = max(self.most, len(self.loaded))
        self.done.append(f"+{adapter.engine_id}")

    async def unload(self, adapter: AdapterRef) -> None:
        await asyncio.sleep(0)
        await super().unload(adapter)
        self.done.append(f"-{adapter.engine_id}")


def ref(number: int) -> AdapterRef:
    return AdapterRef(f"user/u{number}", 1, "d", number, Path("."))


class Room:
    def __init__(self, **changes: float) -> None:
        bounds = {"max_cpu_loras": 2, "adapter_max_starvation_s": 0.05, "adapter_wait_s": 5.0}
        self.engine, self.metrics = Engine(), Metrics()
        settings = Settings.model_validate(bounds | changes)
        ctx = ServerContext(settings, cast(Any, None), self.engine, self.metrics)
        self.residency = AdapterResidency(ctx)
        for number in range(1, 4):
            self.residency.keep(f"user/u{number}", 1)

    async def use(self, *numbers: int) -> None:
        for number in numbers:
            async with self.residency.pin_for_request(ref(number)):
                pass

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"mindprint_{name}", labels) or 0.0


class Users:
    """Tasks that hold an adapter until they are told to leave."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.inside: list[int] = []
        self.leave: dict[int, asyncio.Event] = {}

    async def start(self, number: int) -> asyncio.Task[None]:
        leave = self.leave.setdefault(number, asyncio.Event())

        async def work() -> None:
            async with self.room.residency.pin_for_request(ref(number)):
                assert number in self.room.engine.loaded
                self.inside.append(number)
                await leave.wait()

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        return task


async def test_more_adapters_than_places_take_turns_and_the_least_recent_leaves() -> None:
    room = Room()
    await room.use(1, 2, 1, 3, 1, 2)
    assert room.engine.done == ["+1", "+2", "-2", "+3", "-3", "+2"]
    assert room.engine.most == 2
    assert room.residency.loaded() == ["user/u1@1", "user/u2@1"]
    assert room.counted("adapter_requests_total", outcome="hit") == 2
    assert room.counted("adapter_requests_total", outcome="load") == 4
    assert room.counted("adapter_evictions_total") == 2
    assert room.counted("resident_adapters") == 2


async def test_when_all_are_in_use_the_next_waits() -> None:
    room = Room(adapter_max_starvation_s=60)
    users = Users(room)
    tasks = [await users.start(number) for number in (1, 2, 3, 1)]
    assert users.inside == [1, 2, 1]
    users.leave[2].set()
    await asyncio.wait_for(tasks[1], 1)
    await asyncio.sleep(0.05)
    assert users.inside[-1] == 3
    assert room.counted("adapter_requests_total", outcome="wait") == 1
    for number in (1, 3):
        users.leave[number].set()
    await asyncio.gather(*tasks)


async def test_busy_version_is_unloaded_for_a_waiting_one() -> None:
    room = Room()
    served, stop = [0, 0], asyncio.Event()

    async def busy(number: int) -> None:
        while not stop.is_set():
            async with room.residency.pin_for_request(ref(number)):
                served[number - 1] += 1
                await asyncio.sleep(0.003)

    crowd = [asyncio.create_task(busy(1 + n % 2)) for n in range(6)]
    await asyncio.sleep(0.02)
    async with asyncio.timeout(2):
        await room.use(3)
    stop.set()
    await asyncio.gather(*crowd)
    assert min(served) > 0
    assert room.engine.most == 2


async def test_nobody_waits_longer_than_may_be() -> None:
    room = Room(max_cpu_loras=1, adapter_wait_s=0.1)
    users = Users(room)
    task = await users.start(1)
    with pytest.raises(ServerError) as error:
        await room.use(2)
    assert (type(error.value), error.value.code) == (Busy, "adapters_busy")
    assert room.counted("adapter_requests_total", outcome="busy") == 1
    await asyncio.wait_for(room.use(1), 1)
    users.leave[1].set()
    await task
    assert not room.residency.is_needed("user/u2", 1)


async def test_a_slow_load_keeps_nobody_else() -> None:
    room = Room(max_cpu_loras=3)
    room.engine.slow = {1}
    room.engine.held.clear()
    users = Users(room)
    slow = [await users.start(1), await users.start(1)]
    await asyncio.wait_for(room.use(2, 3), 1)
    assert 1 not in users.inside
    room.engine.held.set()
    users.leave[1].set()
    await asyncio.gather(*slow)
    assert room.engine.done.count("+1") == 1


async def test_who_goes_away_while_it_loads_leaves_no_half_adapter() -> None:
    room = Room()
    room.engine.slow = {1}
    room.engine.held.clear()
    users = Users(room)
    task = await users.start(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    room.engine.held.set()
    await asyncio.wait_for(room.use(2, 3), 1)
    assert set(room.engine.loaded) == {2, 3}
    assert "-1" in room.engine.done


async def test_who_goes_away_while_waiting_lets_the_next_one_in() -> None:
    room = Room(max_cpu_loras=1, adapter_max_starvation_s=60)
    users = Users(room)
    first, second, third = [await users.start(number) for number in (1, 2, 3)]
    second.cancel()
    users.leave[1].set()
    users.leave[3].set()
    await asyncio.wait_for(asyncio.gather(first, third), 1)
    assert users.inside == [1, 3]


async def test_files_that_the_engine_refuses_take_no_place() -> None:
    room = Room(max_cpu_loras=1)
    room.engine.broken = {1}
    for _ in range(2):
        with pytest.raises(ValueError, match="bad files"):
            await room.use(1)
    assert room.residency.loaded() == []
    assert room.counted("adapter_loads_total", outcome="failed") == 2
    await asyncio.wait_for(room.use(2), 1)
    room.engine.broken = set()
    await room.use(1)
    assert room.counted("resident_adapters") == 1


async def test_what_is_no_longer_served_leaves_with_its_last_user_unless_it_is_pinned() -> None:
    room = Room()
    async with room.residency.pin_for_request(ref(1)):
        await room.residency.keep_only("user/u1", [])
        assert room.residency.loaded() == ["user/u1@1"]
    assert room.residency.loaded() == []
    async with room.residency.pin_for_request(ref(1), pinned=True):
        pass
    assert room.residency.loaded() == ["user/u1@1"]
    await room.residency.pin(ref(1), False)
    assert room.residency.loaded() == []
    assert room.residency.is_needed("user/u1", 1) is False


async def test_stopping_waits_for_what_is_under_way() -> None:
    room = Room()
    room.engine.slow = {1}
    room.engine.held.clear()
    task = await Users(room).start(1)
    task.cancel()
    stopping = asyncio.create_task(room.residency.stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    room.engine.held.set()
    await stopping
    assert room.engine.done == ["+1"]
