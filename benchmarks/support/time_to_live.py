"""From the last accepted trace of a new user to the first token of the version that learned from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mindprint.datasets import UserDataset
from mindprint.local.console import Output
from mindprint.types.keys import AdapterKey, VersionRef
from support.chat_load import chat
from support.harness import CannotMeasure
from support.server import TRIES, Server, engagements_of_part, run_batch

TRAIN_S = 600
POLL_S = 0.1


@dataclass(frozen=True)
class TimeToLive:
    """Seconds from the last accepted trace to the first token of the version that learned from it, in order."""

    version: str
    traces: int
    claimed_s: float
    """With the start of the trainer's process."""
    training_s: float
    taken_live_s: float
    """Upload, checks, proof and pointer."""
    first_token_s: float

    @property
    def without_training_s(self) -> float:
        return self.claimed_s + self.taken_live_s + self.first_token_s

    @property
    def total_s(self) -> float:
        return self.without_training_s + self.training_s


async def measure_time_to_live(server: Server, person: UserDataset, each: int, out: Output) -> TimeToLive:
    """Measure a new user: engagements, traces, a real trainer, the version's first answer. Raises CannotMeasure."""
    user_id, key, client = person.user_id, AdapterKey.user(person.user_id), server.client
    for part in range(TRIES):
        await client.users.add_engagements(user_id, engagements_of_part(person, part, each))
        done = await run_batch(server, [user_id], part, out)
        if done.funnel.accepted:
            break
    else:
        raise CannotMeasure(f"no trace of {user_id} was accepted")
    assert done.finished_at is not None
    began = done.finished_at.timestamp()  # by the server's clock, which is this machine's
    trainer = server.cluster.start_trainer(
        f"trainer-{user_id}",
        {"WORK_DIR": str(server.cluster.folder / "trainer"), "MIN_TRACES": "1"},
        ["--once", "--adapter", key],
    )
    with out.bar(f"trainer for {key}") as bar:

        async def until(seen: Callable[[], Awaitable[object]]) -> float:
            """Seconds since the batch was done."""
            deadline = time.monotonic() + TRAIN_S
            while True:
                running = trainer.running()
                if await seen():
                    return time.time() - began
                if not running or time.monotonic() > deadline:
                    raise CannotMeasure(f"the trainer published nothing: {' '.join(trainer.tail(3))}")
                bar.update(0, trainer.doing())
                await asyncio.sleep(POLL_S)

        async def live() -> int | None:
            return (await client.users.get(user_id)).live_version

        async def claimed() -> object:
            return (await client.traces.list(user=user_id, state="leased", limit=1)).traces or await live()

        claimed_s, live_s = await until(claimed), await until(live)
        body = {"model": key, "messages": [{"role": "user", "content": person.held_out[0].query}], "max_tokens": 1}
        asked_s, asked = time.time() - began, time.monotonic()
        answer = await chat(server.http, body, asked)
        bar.finish("live")
    number = await live()
    if number is None or answer.version != VersionRef.of(key, number):
        raise CannotMeasure(f"{answer.version} answered for {key}@{number}")
    version = await client.adapters.get_version(key, number)
    training_s = version.manifest.seconds
    return TimeToLive(
        version=answer.version,
        traces=version.traces,
        claimed_s=claimed_s,
        training_s=training_s,
        taken_live_s=live_s - claimed_s - training_s,
        first_token_s=asked_s + answer.first_token_s - live_s,
    )
