from __future__ import annotations

import heapq
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mindprint_server.engine.slots import SlotAllocator, SlotRequest

PATIENCE = 5.0


def inside(*tickets: SlotRequest) -> list[bool]:
    return [ticket.inside for ticket in tickets]


class Room:
    """Places whose loads and unloads take no time, on a clock that the test moves."""

    def __init__(self, count: int) -> None:
        self.places = SlotAllocator(count, PATIENCE)
        self.now = 0.0
        self.given_up: list[int] = []

    def settle(self) -> list[SlotRequest]:
        admitted, out = self.places.settle(self.now)
        while out:
            self.given_up += out
            for id in out:
                self.places.freed(id)
            more, out = self.places.settle(self.now)
            admitted += more
        return admitted

    def ask(self, id: int) -> SlotRequest:
        ticket = self.places.ask(id, self.now)
        self.settle()
        return ticket

    def leave(self, *tickets: SlotRequest) -> None:
        for ticket in tickets:
            self.places.leave(ticket, self.now)
        self.settle()

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.settle()


def test_the_least_recently_used_makes_room() -> None:
    room = Room(3)
    for id in (1, 2, 3):
        room.leave(room.ask(id))
        room.after(1)
    room.leave(room.ask(1))
    assert room.ask(4).inside
    assert room.given_up == [2]


def test_what_is_used_or_pinned_stays() -> None:
    room = Room(3)
    room.leave(room.ask(1))
    room.places.pin(1, True)
    used, other = room.ask(2), room.ask(3)
    waiting = room.ask(4)
    assert inside(waiting) == [False]
    assert waiting.queued
    room.leave(other)
    assert inside(waiting, used) == [True, True]
    assert room.given_up == [3]


def test_pins_that_fill_the_engine_yield() -> None:
    room = Room(2)
    for id in (1, 2):
        room.leave(room.ask(id))
        room.places.pin(id, True)
        room.after(1)
    assert room.ask(3).inside
    assert room.given_up == [1]
    assert room.places.pinned(2)


def test_who_comes_later_gets_no_place_before() -> None:
    room = Room(2)
    first, second = room.ask(1), room.ask(2)
    line = [room.ask(id) for id in (3, 4, 3)]
    assert room.ask(1).inside, "a place is shared"
    room.leave(second)
    assert inside(*line) == [True, False, True]
    room.leave(line[0])
    assert inside(line[1]) == [False]
    room.leave(line[2])
    assert inside(line[1], first) == [True, True]


def test_an_adapter_that_is_always_in_use_makes_room_in_the_end() -> None:
    room = Room(2)
    busy = {1: room.ask(1), 2: room.ask(2)}
    waiting = room.ask(3)
    for _ in range(20):
        room.after(1)
        for id in (1, 2):
            before, busy[id] = busy[id], room.ask(id)
            room.leave(before)
        if waiting.inside:
            break
    assert waiting.inside
    assert room.now <= PATIENCE + 2
    assert room.given_up == [1], "the one served longest"
    assert inside(busy[1]) == [False], "its new users queue up"
    room.leave(waiting)
    assert inside(busy[1]) == [True]


def test_a_place_closed_for_somebody_who_left_opens_again() -> None:
    room = Room(1)
    first, waiting = room.ask(1), room.ask(2)
    room.after(PATIENCE)
    late = room.ask(1)
    assert inside(late) == [False]
    room.leave(waiting)
    assert inside(late, first) == [True, True]
    assert room.given_up == []


def test_giving_up_what_is_used_or_unknown_does_nothing() -> None:
    room = Room(1)
    room.ask(1)
    assert not room.places.give_up(1)
    assert not room.places.give_up(2)
    assert not room.places.unused(2)


def test_a_place_that_is_being_given_up_takes_nobody() -> None:
    places = SlotAllocator(2, PATIENCE)
    first = places.ask(1, 0)
    assert places.settle(0) == ([first], [])
    places.leave(first, 1)
    assert places.give_up(1)
    assert not places.give_up(1)
    again = places.ask(1, 2)
    assert places.settle(2) == ([], [])
    assert not again.queued, "its place comes free"
    places.freed(1)
    assert places.settle(3) == ([again], [])


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
    longest = PATIENCE + 6 * 4.0 * (1 + len(requests))

    def step(admitted: list[SlotRequest]) -> None:
        for ticket in admitted:
            number = waiting.pop(ticket)
            if ticket.id not in users:
                earlier = {other.id for other, n in waiting.items() if n < number and other.id not in users}
                assert not earlier, "nobody who came later gets a place before"
            users[ticket.id] = users.get(ticket.id, 0) + 1
            heapq.heappush(events, (room.now + requests[number][2], next(order), "done", ticket, number))
        assert len(users) <= count

    while events:
        room.now, _, what, ticket, number = heapq.heappop(events)
        if what == "ask":
            ticket = room.places.ask(requests[number][0], room.now)
            waiting[ticket] = number
            heapq.heappush(events, (room.now + PATIENCE, next(order), "look", ticket, number))
            if number in leaves:
                heapq.heappush(events, (room.now + 1, next(order), "leave", ticket, number))
        elif what == "done":
            assert ticket is not None
            room.places.leave(ticket, room.now)
            users[ticket.id] -= 1
            if not users[ticket.id]:
                del users[ticket.id]
        elif what == "leave" and ticket in waiting:
            del waiting[ticket]
            room.places.leave(ticket, room.now)
        step(room.settle())
    assert waiting == {}, "nobody waits for ever"
    assert room.now <= at + longest
