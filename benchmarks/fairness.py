"""Does a tenant's answer begin as soon as ever while another tenant asks as much as the server takes?

Tenant B asks one question after the other, with pauses of random length: first alone, then while tenant A keeps more
chats under way than the server has slots, or runs a batch over many engagements. Each of B's times to the first token
counts from when it was sent. The sides take turns. Nothing of A may be refused for its quotas, and nothing of B at all.

On a CPU the engine's step takes longer with every sequence in it, so that A slows B down also where B never waits: a
low `--slots` shows the queue, the default of the server what a CPU can do. On a GPU a step costs about the same.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

import httpx
import typer

from mindprint import AsyncMindprintClient
from mindprint.local.console import Output
from mindprint.model_files import DEFAULT
from mindprint.types import BatchRequest, Engagement
from support.chat_load import chat
from support.exclusive import exclusive_turn
from support.harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure, spread
from support.server import START_S, run_server

MOST = 4 / 3
"""Largest median time to the first token of B beside A, to that of B alone."""
FLOOD = 4
"""Chats of A under way, in slots of the server."""
SHORT, LONG = 16, 64
"""Tokens of an answer of B's and of A's."""
MAX_PAUSE_S = 0.5
"""Longest pause of B before a question, in seconds: longer than a step of the engine."""
SETTLE_S = 3.0
"""Seconds for which A asks before B does."""


@dataclass
class Tenant:
    """A tenant with a key of its own; `refused` counts what it was refused."""

    http: httpx.AsyncClient
    client: AsyncMindprintClient
    questions: Iterator[int] = field(default_factory=itertools.count)
    answered: int = 0
    refused: int = 0

    async def ask(self, tokens: int) -> float:
        """Return the seconds from a question to the first token of its answer."""
        question = f"{next(self.questions)} walks in the hills, or as many by the sea: which of the two, and why?"
        body = {"model": "base", "messages": [{"role": "user", "content": question}], "max_tokens": tokens}
        reply = await chat(self.http, body | {"ignore_eos": True}, time.monotonic())
        self.answered += 1
        return reply.first_token_s

    async def flood(self) -> None:
        """Ask again and again, and wait a moment where that is refused."""
        while True:
            try:
                await self.ask(LONG)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != 429:
                    raise
                self.refused += 1
                await asyncio.sleep(float(error.response.headers["retry-after"]))


async def times(tenant: Tenant, count: int) -> list[float]:
    """Return the times to the first token of so many questions, one after the other, at times of their own."""
    found = []
    for _ in range(count):
        # An answer ends with a step of the engine. A question right after it would wait for the whole next one.
        await asyncio.sleep(random.uniform(0, MAX_PAUSE_S))
        found.append(await tenant.ask(SHORT))
    return found


@asynccontextmanager
async def under_way(tenant: Tenant, count: int) -> AsyncIterator[None]:
    """Keep so many chats of a tenant under way during the block. Raises what one of them fails with."""
    tasks = [asyncio.create_task(tenant.flood()) for _ in range(count)]
    try:
        await asyncio.sleep(SETTLE_S)
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def batch_under_way(tenant: Tenant) -> AsyncIterator[None]:
    """Run a batch of a tenant during the block, and cancel it then. Raises CannotMeasure if it ended before."""
    batch = await tenant.client.batches.create(BatchRequest(seed=next(tenant.questions), exhaustive=True))
    try:
        await asyncio.sleep(SETTLE_S)
        yield
        if (now := await tenant.client.batches.get(batch.id)).state != "running":
            raise CannotMeasure(f"the batch is {now.state}: it was to run beside all of B's questions")
    finally:
        await tenant.client.batches.cancel(batch.id)


def history(count: int) -> list[Engagement]:
    """Engagements for a batch to be about."""
    return [
        Engagement.model_validate(
            {
                "id": f"e{number}",
                "prompt": f"Would you take walk number {number}?",
                "response": "yes",
                "choices": ["yes", "no"],
                "occurred_at": f"2026-01-{number % 28 + 1:02d}T{number // 28 % 24:02d}:00:00Z",
            }
        )
        for number in range(count)
    ]


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    slots: Annotated[int, typer.Option(min=1, help="Value of the server's `max_num_seqs`.")] = 8,
    model: Annotated[str, typer.Option(help="A Hugging Face id, a folder, or `default`.")] = DEFAULT,
) -> None:
    rounds, count, engagements = (1, 5, 200) if quick else (5, 20, 1000)
    admin = secrets.token_hex(32)

    async def work(out: Output, report: Report) -> None:
        extra = {"ADMIN_KEY": admin, "MAX_NUM_SEQS": str(slots)}
        async with (
            run_server(model, out, extra=extra) as server,
            tenant(server.cluster.url, admin, "flooding") as a,
            tenant(server.cluster.url, admin, "asking") as b,
            exclusive_turn(),
        ):
            report.machine["device"] = (await b.client.server.info()).device
            await a.client.users.add_engagements("ann", history(engagements))

            async def alone() -> list[float]:
                return await times(b, count)

            async def beside_chats() -> list[float]:
                async with under_way(a, FLOOD * slots):
                    return await times(b, count)

            async def beside_a_batch() -> list[float]:
                async with batch_under_way(a):
                    return await times(b, count)

            sides = {"alone": alone, "beside chats": beside_chats, "beside a batch": beside_a_batch}
            measured = await alternate(sides, rounds, tell=out.say)
            for name, found in measured.items():
                report.row(B=name, questions=rounds * count, first_token_s=spread(itertools.chain(*found)))
            report.row(tenant="A", answered=a.answered, refused=a.refused)
            medians = {name: spread(itertools.chain(*found)).median for name, found in measured.items()}
            for name in ("beside chats", "beside a batch"):
                bar = f"median time to first token of B, {name} of A over alone"
                report.bar(bar, medians[name] / medians["alone"], at_most=round(MOST, 3))

    measure(__doc__, "about two minutes" if quick else "about a quarter of an hour on two cores", json_file, work)


@asynccontextmanager
async def tenant(url: str, admin: str, name: str) -> AsyncIterator[Tenant]:
    """Make a tenant with a key."""
    async with AsyncMindprintClient(url, api_key=admin) as operator:
        key = (await operator.keys.create(name, ["infer", "ingest", "train", "read"], tenant=name)).key
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=None)
    async with (
        AsyncMindprintClient(url, api_key=key) as client,
        httpx.AsyncClient(base_url=url, timeout=START_S, headers=headers, limits=limits) as http,
    ):
        yield Tenant(http, client)


if __name__ == "__main__":
    typer.run(main)
