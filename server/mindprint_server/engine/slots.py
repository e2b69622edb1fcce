"""Places that adapters share out: who has one, who waits for one, who must make room. Pure: times come in as numbers.

All users of an adapter share its place. Who asks for an adapter that has a place goes in at once; others wait in the
order in which they came, and nobody who came later gets a place before them. While somebody waits, unused places are
given up, the least recently used first. If all are in use for longer than `patience_s`, the one that was served longest
is closed: its new users queue up like anybody else, and its place is free when its last user leaves. So nobody waits
for ever, however busy the others are. Pinned places are given up only if every place is pinned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from mindprint_server.engine.base import AdapterRef


@dataclass(eq=False)
class SlotRequest:
    """One user of an adapter, waiting or inside."""

    id: int
    asked: float
    inside: bool = False
    queued: bool = False
    """Whether no place was free, nor about to be, when it asked."""


@dataclass
class Slot:
    since: float
    used: float
    users: int = 0
    pinned: bool = False
    closed: bool = False
    """It takes no new users."""
    leaving: bool = False
    """It is being given up."""


class SlotAllocator:
    def __init__(self, count: int, patience_s: float) -> None:
        self.count = count
        self.patience_s = patience_s
        self._places: dict[int, Slot] = {}
        self._queue: dict[SlotRequest, None] = {}

    # --- what happens ---

    def ask(self, id: int, now: float) -> SlotRequest:
        """A new user; `settle` lets it in."""
        ticket = SlotRequest(id, now)
        self._queue[ticket] = None
        return ticket

    def leave(self, ticket: SlotRequest, now: float) -> None:
        """A user is done, or no longer wants to wait."""
        if ticket.inside:
            place = self._places[ticket.id]
            place.users -= 1
            place.used = now
        else:
            self._queue.pop(ticket, None)

    def pin(self, id: int, pinned: bool) -> None:
        if place := self._places.get(id):
            place.pinned = pinned

    def give_up(self, id: int) -> bool:
        """Begins to give up a place that nobody uses. False if it cannot be: then nothing changes."""
        place = self._places.get(id)
        if place is None or place.users or place.leaving:
            return False
        place.leaving = True
        return True

    def freed(self, id: int) -> None:
        """A place that was given up is free."""
        del self._places[id]

    # --- what follows ---

    def settle(self, now: float) -> tuple[list[SlotRequest], list[int]]:
        """Who goes in now, and whose places are given up for those who wait: to be told `freed` once they are."""
        if not self._queue:
            return [], []
        admitted = self._admit(now)
        while self._reopen():
            admitted += self._admit(now)
        wanting = self._wanting()
        out = self._unused()[: max(0, len(wanting) - self._leaving())]
        for id in out:
            self._places[id].leaving = True
        aged = sum(now - asked >= self.patience_s for asked in wanting.values())
        for place in self._served_longest()[: max(0, aged - self._leaving() - len(self._closed()))]:
            place.closed = True
        soon = set(list(wanting)[: self._leaving()])
        for ticket in self._queue:
            ticket.queued |= ticket.id not in soon
        return admitted, out

    def unused(self, id: int) -> bool:
        return id in self._places and not self._places[id].users

    def pinned(self, id: int) -> bool:
        return id in self._places and self._places[id].pinned

    # --- how ---

    def _admit(self, now: float) -> list[SlotRequest]:
        admitted = []
        for ticket in list(self._queue):
            place = self._places.get(ticket.id)
            if place is None and len(self._places) < self.count:
                place = self._places[ticket.id] = Slot(since=now, used=now)
            if place is not None and not place.closed and not place.leaving:
                place.users += 1
                place.used = now
                ticket.inside = True
                del self._queue[ticket]
                admitted.append(ticket)
        return admitted

    def _wanting(self) -> dict[int, float]:
        """Adapters that need a place they do not have, in order, with when each was first asked for."""
        wanting: dict[int, float] = {}
        for ticket in self._queue:
            if ticket.id not in self._places or self._places[ticket.id].leaving:
                wanting.setdefault(ticket.id, ticket.asked)
        return wanting

    def _reopen(self) -> bool:
        """Opens places that were closed for somebody who no longer waits. Whether there were any."""
        closed = self._closed()
        needed = max(0, len(self._wanting()) - self._leaving())
        for place in closed[needed:]:
            place.closed = False
        return len(closed) > needed

    def _movable(self) -> dict[int, Slot]:
        all_pinned = all(place.pinned for place in self._places.values())
        return {
            id: place for id, place in self._places.items() if not place.leaving and (all_pinned or not place.pinned)
        }

    def _unused(self) -> list[int]:
        """Those that may be given up now: closed ones first, then the least recently used."""
        unused = [(not place.closed, place.used, id) for id, place in self._movable().items() if not place.users]
        return [id for *_, id in sorted(unused)]

    def _served_longest(self) -> list[Slot]:
        used = [place for place in self._movable().values() if place.users and not place.closed]
        return sorted(used, key=lambda place: place.since)

    def _closed(self) -> list[Slot]:
        return [place for place in self._places.values() if place.closed and not place.leaving]

    def _leaving(self) -> int:
        return sum(place.leaving for place in self._places.values())


class SlotQueue:
    """Waits for `places`. `give_up` is told which adapter's place is to be given up; `freed` says that it is."""

    def __init__(self, places: SlotAllocator, give_up: Callable[[int], None]) -> None:
        self.places = places
        self._give_up = give_up
        self._waiting: dict[SlotRequest, asyncio.Event] = {}

    async def enter(self, id: int, *, wait_s: float | None = None) -> SlotRequest:
        """Returns once inside; `leave` must follow. Raises TimeoutError after `wait_s` seconds."""
        ticket = self.places.ask(id, time.monotonic())
        turn = self._waiting[ticket] = asyncio.Event()
        try:
            self.settle()
            async with asyncio.timeout(wait_s):
                while not ticket.inside:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(turn.wait(), self.places.patience_s)
                    self.settle()  # by now it may have waited long enough for another one to make room
        except BaseException:
            self.leave(ticket)
            raise
        finally:
            del self._waiting[ticket]
        return ticket

    def leave(self, ticket: SlotRequest) -> None:
        self.places.leave(ticket, time.monotonic())
        self.settle()

    def freed(self, id: int) -> None:
        self.places.freed(id)
        self.settle()

    def settle(self) -> None:
        admitted, out = self.places.settle(time.monotonic())
        for ticket in admitted:
            self._waiting[ticket].set()
        for id in out:
            self._give_up(id)


class ActiveAdapterLimiter:
    """At most `count` adapters are computed side by side. The base needs no slot."""

    def __init__(self, count: int, patience_s: float = 2.0) -> None:
        # Nothing has to be unloaded: a slot that nobody uses is free at once.
        self._line = SlotQueue(SlotAllocator(count, patience_s), give_up=lambda id: self._line.freed(id))

    @asynccontextmanager
    async def hold(self, adapter: AdapterRef | None) -> AsyncIterator[None]:
        """Waits while `count` other adapters are being computed; the adapter is one of them while the block runs."""
        if adapter is None:
            yield
            return
        ticket = await self._line.enter(adapter.engine_id)
        try:
            yield
        finally:
            self._line.leave(ticket)  # never awaited: the caller may be cancelled
