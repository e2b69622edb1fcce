"""How many different adapters may be in the engine's hands at once; requests for one more wait their turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from mindprint_server.engine.places import Places, Ticket
from mindprint_server.engine.protocol import AdapterRef


class Line:
    """Waits for `places`. `give_up` is told which adapter's place is to be given up; `freed` says that it is."""

    def __init__(self, places: Places, give_up: Callable[[int], None]) -> None:
        self.places = places
        self._give_up = give_up
        self._waiting: dict[Ticket, asyncio.Event] = {}

    async def enter(self, id: int, *, wait_s: float | None = None) -> Ticket:
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

    def leave(self, ticket: Ticket) -> None:
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


class Slots:
    """At most `count` adapters are computed side by side. The base needs no slot."""

    def __init__(self, count: int, patience_s: float = 2.0) -> None:
        # Nothing has to be unloaded: a slot that nobody uses is free at once.
        self._line = Line(Places(count, patience_s), give_up=lambda id: self._line.freed(id))

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
