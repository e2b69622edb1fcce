"""Chooses when which process is killed. The moments depend on a seed and on progress, not on the clock alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from kills.cluster import Cluster, Member
from kills.facts import Facts

SERVER_SHARE = 0.7
"""Share of the kills that are of servers."""
MAX_ANSWERS = 20
"""Maximum number of answers from one kill to the next."""
MAX_WORK_ANSWERS = 30
"""Maximum number of answers to others for which a kill waits until a trainer has got a lease or published."""
MAX_PAUSE_S = 0.05
"""Longest pause after these answers, so that kills also come in the middle of a request."""
POLL_S = 0.005
STALLED_S = 120.0
"""Seconds without any answer after which the run ends. It bounds a run that would hang."""


Fault = Callable[[], Awaitable[None]]
"""Breaks something beside the servers, such as their connections to the database, and mends it again."""


class Stalled(Exception):
    """Nothing was answered for a long time."""


class Killer:
    """Kills members of a cluster one after the other, and starts each again.

    Args:
        cluster: The processes.
        facts: Progress, to know when to go on.
        dice: Chooses process and moment.
        faults: If there are some, these are done instead of kills.
    """

    def __init__(
        self, cluster: Cluster, facts: Facts, dice: random.Random, faults: Mapping[str, Fault] | None = None
    ) -> None:
        self._cluster = cluster
        self._facts = facts
        self._dice = dice
        self._faults = dict(faults or {})
        self.killed = {name: 0 for name in self._faults or [member.name for member in cluster.members]}
        self.recovery_s: list[float] = []

    async def kill(self, times: int) -> None:
        """Kill so many processes, or do so many faults."""
        for _ in range(times):
            if self._faults:
                await self._do_fault(self._dice.choice(list(self._faults)))
            else:
                await self._kill_member(self._choose())

    async def _do_fault(self, name: str) -> None:
        await self._wait_for_answers(self._dice.randint(1, MAX_ANSWERS))
        await self._faults[name]()
        self.killed[name] += 1
        for server in self._cluster.servers:
            self.recovery_s.append(await self._cluster.wait_until_ready(server))

    async def _kill_member(self, member: Member) -> None:
        await self._wait_for_answers(self._dice.randint(1, MAX_ANSWERS))
        trainers = self._cluster.trainers if member.is_server else [member]
        if trainers and (not member.is_server or self._dice.random() < 0.5):
            await self._wait_for_work(self._dice.choice(trainers))
        await asyncio.sleep(MAX_PAUSE_S * self._dice.random())
        self._cluster.kill(member)
        self.killed[member.name] += 1
        self._cluster.start(member)
        if member.is_server:
            self.recovery_s.append(await self._cluster.wait_until_ready(member))

    def _choose(self) -> Member:
        servers, trainers = self._cluster.servers, self._cluster.trainers
        return self._dice.choice(servers if not trainers or self._dice.random() < SERVER_SHARE else trainers)

    async def _wait_for_answers(self, count: int) -> None:
        wanted = self._answered() + count
        for _ in range(round(STALLED_S / POLL_S)):
            if self._answered() >= wanted:
                return
            await asyncio.sleep(POLL_S)
        raise Stalled(f"no {count} answers within {STALLED_S:.0f} s: see the logs in {self._cluster.folder}")

    async def _wait_for_work(self, trainer: Member) -> None:
        """Wait until the trainer got a lease or published, so that kills come in the middle of its work."""
        before, wanted = self._worked(trainer), self._answered() + MAX_WORK_ANSWERS
        while self._worked(trainer) == before and self._answered() < wanted:
            await self._wait_for_answers(1)

    def _worked(self, trainer: Member) -> int:
        journal = self._cluster.journal(trainer)
        text = journal.read_bytes() if journal.exists() else b""
        return text.count(b'"claimed"') + text.count(b'"published"')

    def _answered(self) -> int:
        return sum(count for answer, count in self._facts.answers.items() if answer.startswith("2"))
