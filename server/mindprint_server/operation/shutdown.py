"""The end of a server that was told to stop: streams end with an error, not with silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from mindprint_server.exceptions import Unavailable

Item = TypeVar("Item")


def server_stopping() -> Unavailable:
    """Return the error with which streams end that the server does not finish."""
    return Unavailable("server_stopping", "the server is stopping: ask again once it has been started again")


class Cutoff:
    """Ends streams at one moment, and at once those that begin later."""

    def __init__(self) -> None:
        self._is_due = False
        self._waits: set[asyncio.Timeout] = set()

    def cut(self) -> None:
        """End all streams now."""
        self._is_due = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    async def pass_on(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """Yield the items of a stream.

        Raises:
            Unavailable: The stream was cut off.
        """
        while not self._is_due:
            # One time-out for each item, as a task for each would cost more: it is cut off while it waits for the next.
            try:
                async with asyncio.timeout(None) as wait:
                    self._waits.add(wait)
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if wait.expired():
                    break
                raise
            finally:
                self._waits.discard(wait)
            yield item
        raise server_stopping()


class Shutdown:
    """Tells the streams of a server when it stops.

    Attributes:
        watching: Cut as soon as the server stops: streams that would go on for as long as their batch.
        answering: Cut when `shutdown_grace_s` is over: streams of answers.
    """

    def __init__(self) -> None:
        self.watching = Cutoff()
        self.answering = Cutoff()

    def begin(self, grace_s: float) -> None:
        """Cut the watchers now, and the answers after so many seconds. Called in the event loop."""
        self.watching.cut()
        asyncio.get_running_loop().call_later(grace_s, self.answering.cut)
