from __future__ import annotations

import heapq
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mindprint_server.engine.slots import SlotAllocator, SlotRequest

MAX_STARVATION_S = 5.0


def admitted(*requests: SlotRequest) -> list[bool]:
    return [request.admitted for request in requests]


class Room:
    """Slots whose loads and unloads take no time, on a clock that the test moves."""

    def __init__(self, count: int) -> None:
        self.allocator = SlotAllocator(count, MAX_STARVATION_S)
        self.now = 0.0
        self.evicted: list[int] = []

    def schedule(self) -> list[SlotRequest]:
        admitted, out = self.allocator.schedule(self.now)
        while out:
            self.evicted += out
            for id in out:
                self.allocator.finish_eviction(id)
            more, out = self.allocator.schedule(self.now)
            admitted += more
        return admitted

    def request(self, id: int) -> SlotRequest:
        request = self.allocator.request(id, self.now)
        self.schedule()
        return request

    def release(self, *requests: SlotRequest) -> None:
        for request in requests:
            self.allocator.release(request, self.now)
        self.schedule()

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.schedule()


def test_least_recently_used_slot_is_evicted() -> None:
    room = Room(3)
    for id in (1, 2, 3):
        room.release(room.request(id))
        room.after(1)
    room.release(room.request(1))
    assert room.request(4).admitted
    assert room.evicted == [2]


def test_what_is_used_or_pinned_stays() -> None:
    room = Room(3)
    room.release(room.request(1))
    room.allocator.pin(1, True)
    used, other = room.request(2), room.request(3)
    waiting = room.request(4)
    assert admitted(waiting) == [False]
    assert waiting.queued
    room.release(other)
    assert admitted(waiting, used) == [True, True]
    assert room.evicted == [3]


def test_pins_that_fill_the_engine_yield() -> None:
    room = Room(2)
    for id in (1, 2):
        room.release(room.request(id))
        room.allocator.pin(id, True)
        room.after(1)
    assert room.request(3).admitted
    assert room.evicted == [1]
    assert room.allocator.is_pinned(2)


def test_who_comes_later_gets_no_place_before() -> None:
    room = Room(2)
    first, second = room.request(1), room.request(2)
    line = [room.request(id) for id in (3, 4, 3)]
    assert room.request(1).admitted, "a place is shared"
    room.release(second)
    assert admitted(*line) == [True, False, True]
    room.release(line[0])
    assert admitted(line[1]) == [False]
    room.release(line[2])
    assert admitted(line[1], first) == [True, True]


def test_slot_that_is_always_in_use_is_evicted_in_the_end() -> None:
    room = Room(2)
    busy = {1: room.request(1), 2: room.request(2)}
    waiting = room.request(3)
    for _ in range(20):
        room.after(1)
        for id in (1, 2):
            before, busy[id] = busy[id], room.request(id)
            room.release(before)
        if waiting.admitted:
            break
    assert waiting.admitted
    assert room.now <= MAX_STARVATION_S + 2
    assert room.evicted == [1], "the one that was active longest"
    assert admitted(busy[1]) == [False], "its new users queue up"
    room.release(waiting)
    assert admitted(busy[1]) == [True]


def test_a_place_closed_for_somebody_who_left_opens_again() -> None:
    room = Room(1)
    first, waiting = room.request(1), room.request(2)
    room.after(MAX_STARVATION_S)
    late = room.request(1)
    assert admitted(late) == [False]
    room.release(waiting)
    assert admitted(late, first) == [True, True]
    assert room.evicted == []


def test_giving_up_what_is_used_or_unknown_does_nothing() -> None:
    room = Room(1)
    room.request(1)
    assert not room.allocator.begin_eviction(1)
    assert not room.allocator.begin_eviction(2)


def test_slot_that_is_being_evicted_admits_no_request() -> None:
    allocator = SlotAllocator(2, MAX_STARVATION_S)
    first = allocator.request(1, 0)
    assert allocator.schedule(0) == ([first], [])
    allocator.release(first, 1)
    assert allocator.begin_eviction(1)
    assert not allocator.begin_eviction(1)
    again = allocator.request(1, 2)
    assert allocator.schedule(2) == ([], [])
    assert not again.queued, "its place comes free"
    allocator.finish_eviction(1)
    assert allocator.schedule(3) == ([again], [])


asking = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 3), st.floats(0.1, 4)), max_size=60)
"""Which adapter, how long after the one before, and for how long it is used."""


@settings(max_examples=150)
@given(count=st.integers(1, 3), requests=asking, leaves=st.sets(st.integers(0, 59)))
def test_everybody_gets_a_place_in_order_and_in_time(
    count: int, requests: list[tuple[int, float, float]], leaves: set[int]
) -> None:
    room, order = Room(count), itertools.count()
    events: list[tuple[float, int, str, SlotRequest | None, int]] = []
    at = 0.0
    for number, (_, pause, _) in enumerate(requests):
        at += pause
        heapq.heappush(events, (at, next(order), "ask", None, number))
    waiting: dict[SlotRequest, int] = {}
    users: dict[int, int] = {}
    longest = MAX_STARVATION_S + 6 * 4.0 * (1 + len(requests))

    def step(admitted: list[SlotRequest]) -> None:
        for request in admitted:
            number = waiting.pop(request)
            if request.adapter_id not in users:
                earlier = {
                    other.adapter_id for other, n in waiting.items() if n < number and other.adapter_id not in users
                }
                assert not earlier, "nobody who came later gets a place before"
            users[request.adapter_id] = users.get(request.adapter_id, 0) + 1
            heapq.heappush(events, (room.now + requests[number][2], next(order), "done", request, number))
        assert len(users) <= count

    while events:
        room.now, _, what, request, number = heapq.heappop(events)
        if what == "ask":
            request = room.allocator.request(requests[number][0], room.now)
            waiting[request] = number
            heapq.heappush(events, (room.now + MAX_STARVATION_S, next(order), "look", request, number))
            if number in leaves:
                heapq.heappush(events, (room.now + 1, next(order), "leave", request, number))
        elif what == "done":
            assert request is not None
            room.allocator.release(request, room.now)
            users[request.adapter_id] -= 1
            if not users[request.adapter_id]:
                del users[request.adapter_id]
        elif what == "leave" and request in waiting:
            del waiting[request]
            room.allocator.release(request, room.now)
        step(room.schedule())
    assert waiting == {}, "nobody waits for ever"
    assert room.now <= at + longest
