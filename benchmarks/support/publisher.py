"""Versions that go live meanwhile: whose they are, and who publishes them as a trainer does."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mindprint import AsyncMindprintClient
from mindprint.datasets import UserDataset
from mindprint.local.console import Output
from mindprint.types import LeaseRequest
from mindprint.types.keys import AdapterKey, VersionRef
from support.constant_adapters import ConstantAdapter
from support.harness import CannotMeasure
from support.server import TRIES, Server, engagements_of_part, run_batch

LEASE_S = 300.0


async def write_traces(server: Server, people: Sequence[UserDataset], each: int, count: int, out: Output) -> deque[str]:
    """Has traces written until there are enough; returns whose version each publication is. Raises CannotMeasure."""
    accepted: dict[str, int] = {}
    for part in range(TRIES):
        for person in people:
            await server.client.users.add_engagements(person.user_id, engagements_of_part(person, part, each))
        await run_batch(server, [person.user_id for person in people], part, out)
        accepted = {p.user_id: (await server.client.server.funnel(p.user_id)).accepted for p in people}
        planned = publish_order(accepted, count)
        if len(planned) == count and all(accepted.values()):
            return deque(planned)
    raise CannotMeasure(f"{sum(accepted.values())} traces were accepted, {count} are needed: {accepted}")


def publish_order(accepted: Mapping[str, int], count: int) -> list[str]:
    """Users in turn, each as often as there are traces, `count` in all if there are so many."""
    rounds = range(max(accepted.values(), default=0))
    return list(itertools.islice((user for n in rounds for user, have in accepted.items() if n < have), count))


@dataclass(frozen=True)
class PublishedVersion:
    key: str
    number: int
    word: str
    live_at: float
    """Monotonic seconds, when the trainer was told that it is live."""
    seconds: float
    """From the claim on."""

    @property
    def name(self) -> str:
        return VersionRef.of(self.key, self.number)


@dataclass
class Publisher:
    """Does what a trainer does, but that the versions are made already."""

    client: AsyncMindprintClient
    marked: deque[ConstantAdapter]
    users: deque[str]
    published: list[PublishedVersion] = field(default_factory=list)

    async def publish(self) -> None:
        began, key, marked = time.monotonic(), AdapterKey.user(self.users.popleft()), self.marked.popleft()
        lease = await self.client.leases.claim(LeaseRequest(owner="reload", adapter=key, max_traces=1, ttl_s=LEASE_S))
        if lease is None:
            raise CannotMeasure(f"no trace waits for {key}")
        version = await self.client.leases.complete(lease.id, marked.manifest(lease), marked.config, marked.weights)
        now = time.monotonic()
        self.published.append(PublishedVersion(key, version.version, marked.word, now, now - began))

    async def publish_evenly(self, count: int, seconds: float) -> None:
        """So many versions, evenly over so many seconds, or later where one takes longer than its share."""
        began = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + (number + 0.5) * seconds / count - time.monotonic()))
            await self.publish()
