"""Phases of chats, with versions published beside them in every other one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mindprint.local.console import Output
from support.chat_load import ChatLoad, ChatReply
from support.harness import alternate
from support.publisher import Publisher
from support.server import Server

WARM_UP_S = 10.0
QUIET, PUBLISHING = "quiet", "publishing"


@dataclass(frozen=True)
class PhaseSizes:
    phases: int
    """Of each kind."""
    seconds: float
    """Of a phase."""
    versions: int
    """Published in a phase."""
    users: int
    each: int
    """Engagements of each user in a batch."""
    stories: int
    """Users whose traces are followed until they answer."""

    @property
    def published(self) -> int:
        """With the first version of each user and the one of the warm-up."""
        return self.users + 1 + self.phases * self.versions


@dataclass(frozen=True)
class Phase:
    replies: list[ChatReply]
    versions: int
    """Published in it."""
    busy_cores: float
    """Of the server and its engine, on average."""


async def under_load(
    server: Server, load: ChatLoad, publisher: Publisher, sizes: PhaseSizes, out: Output
) -> dict[str, list[Phase]]:
    """Run the phases of both kinds in turn, once every user has a version."""
    with out.bar("versions", sizes.published) as bar:
        running = "warm-up"

        def begins(what: str) -> None:
            nonlocal running
            running = what

        def tick(answered: str) -> None:
            bar.update(len(publisher.published), f"{running}, {answered}")

        async def phase(seconds: float, versions: int) -> Phase:
            began, cpu = time.monotonic(), server.cpu_seconds()
            publishing = asyncio.create_task(publisher.publish_evenly(versions, seconds))
            replies = await load.run(seconds, publishing, tick)
            await publishing
            busy = (server.cpu_seconds() - cpu) / (time.monotonic() - began)
            return Phase(replies, versions, busy)

        def side(versions: int) -> Callable[[], Awaitable[Phase]]:
            return lambda: phase(sizes.seconds, versions)

        for _ in range(sizes.users):
            await publisher.publish()
            bar.update(len(publisher.published), "first ones")
        await phase(WARM_UP_S, 1)
        sides = {QUIET: side(0), PUBLISHING: side(sizes.versions)}
        phases = await alternate(sides, sizes.phases, warm_up=False, tell=begins)
        bar.finish(f"{len(publisher.published)} published")
    return phases
