"""How many engagements a second does the store take over HTTP, and does the server's memory stay flat under work?

First several writers send engagements, 500 in a request and one in a request, to a server process with a SQLite file.
Then a fresh server takes engagements and writes traces of them in batches, in ten equal parts after a warm-up of the
same make; its resident memory in the last part is compared with that in the second, after the first tenth of the work.
The engine is the fake one: nothing here is about generation.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Annotated

import psutil
import typer

from mindprint import AsyncMindprintClient
from mindprint.local.cluster import LocalCluster
from mindprint.local.console import Output
from mindprint.types import BatchRequest, Engagement
from support.harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure, spread

START = datetime(2026, 1, 1, tzinfo=UTC)
START_TIMEOUT_S = 60
SAMPLE_S = 0.1
PARTS = 10
HISTORY = 101
"""Engagements of each user. The first one has no history before it, so it gets no trace."""
WORDS = (
    "river",
    "hill",
    "train",
    "coffee",
    "garden",
    "window",
    "letter",
    "music",
    "bridge",
    "market",
    "winter",
    "paper",
)
"""Few: the fake engine's tokenizer keeps every word that it has seen, which is not the server's memory."""


@dataclass(frozen=True)
class IngestSizes:
    many: int
    """Engagements sent by each run of 500 in a request."""
    single: int
    """Engagements sent by each run of one in a request."""
    engagements: int
    traces: int


FULL = IngestSizes(many=20_000, single=1_000, engagements=100_000, traces=20_000)
SMALL = IngestSizes(many=4_000, single=200, engagements=5_000, traces=1_000)


@dataclass(frozen=True)
class IngestRate:
    engagements_per_s: float
    request_ms: float
    """The median request."""
    server_cpu: float
    """Seconds of CPU in a second."""


def engagement(number: int) -> Engagement:
    chosen = random.Random(number)
    options = ["yes", "no", "perhaps"]
    return Engagement(
        id=f"e{number:07d}",
        prompt=f"Would you take {phrase(chosen, 8)} over {phrase(chosen, 8)}?",
        response=chosen.choice(options),
        reason=f"Because of {phrase(chosen, 4)}.",
        choices=options,
        occurred_at=START + timedelta(minutes=number),
    )


def phrase(chosen: random.Random, words: int) -> str:
    return " and ".join(chosen.sample(WORDS, words))


def make_model_folder(folder: Path) -> Path:
    """Create a model folder with the few files that the server reads when its engine is the fake one."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    tensors = {"model.layers.0.self_attn.q_proj.weight": {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]}}
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(256))
    return folder


@asynccontextmanager
async def run_server(name: str) -> AsyncIterator[tuple[AsyncMindprintClient, psutil.Process]]:
    """Run a server process on an empty store; yield a client and psutil's view of the process."""
    with tempfile.TemporaryDirectory(prefix=f"mindprint-{name}-") as folder, LocalCluster(Path(folder)) as cluster:
        settings = {"ENGINE": "fake", "MIN_ANSWER_FREQUENCY": "0"}  # every answer here is a random one
        server = await cluster.start_server(
            make_model_folder(Path(folder) / "model"), settings, timeout_s=START_TIMEOUT_S
        )
        async with AsyncMindprintClient(cluster.url) as client:
            yield client, psutil.Process(server.pid)


# --- how fast ---


async def post_engagements(
    client: AsyncMindprintClient, requests: Iterable[tuple[str, list[Engagement]]], writers: int
) -> list[float]:
    """All requests, `writers` of them at a time; returns the seconds that each took."""
    todo, seconds = iter(requests), list[float]()

    async def write() -> None:
        for user, items in todo:
            began = time.perf_counter()
            stored = await client.users.add_engagements(user, items)
            seconds.append(time.perf_counter() - began)
            if stored.created != len(items):
                raise CannotMeasure(f"{stored.created} of {len(items)} engagements were new to the server")

    await asyncio.gather(*(write() for _ in range(writers)))
    return seconds


async def measure_rates(out: Output, report: Report, sizes: IngestSizes, writers: int, users: int) -> None:
    numbers, turns = count(), count()

    def side(server: psutil.Process, each: int, at_once: int, total: int) -> Callable[[], Awaitable[IngestRate]]:
        async def run() -> IngestRate:
            requests = [
                (f"u{next(turns) % users:04d}", [engagement(next(numbers)) for _ in range(each)])
                for _ in range(total // each)
            ]
            cpu, began = server.cpu_times(), time.perf_counter()
            seconds = await post_engagements(client, requests, at_once)
            passed, used = time.perf_counter() - began, server.cpu_times()
            busy = (used.user + used.system - cpu.user - cpu.system) / passed
            return IngestRate(total / passed, 1000 * spread(seconds).median, busy)

        return run

    async with run_server("rates") as (client, server):
        kinds = {
            f"{each} a request, {at_once} at once": (each, at_once, total)
            for each, total in ((500, sizes.many), (1, sizes.single))
            for at_once in sorted({1, writers})
        }
        with out.bar("engagements a second", 4 * len(kinds)) as bar:
            measured = await alternate(
                {name: side(server, *kind) for name, kind in kinds.items()},
                tell=lambda note: bar.update(bar.done + 1, note),
            )
            bar.finish("measured")
    for name, (each, at_once, _) in kinds.items():
        report.row(
            in_a_request=each,
            writers=at_once,
            engagements_per_s=spread(rate.engagements_per_s for rate in measured[name]),
            request_ms=spread(rate.request_ms for rate in measured[name]),
            server_cpu=spread(rate.server_cpu for rate in measured[name]),
        )


# --- how flat ---


async def measure_memory(out: Output, report: Report, sizes: IngestSizes, writers: int) -> None:
    """Every part brings new users with their engagements, then a batch over as many of them as its traces need."""
    people = -(-sizes.engagements // PARTS // HISTORY)
    thought = -(-sizes.traces // PARTS // (HISTORY - 1))
    resident: list[float] = []
    async with run_server("memory") as (client, server):

        async def watch() -> None:
            while True:
                resident.append(server.memory_info().rss / 2**20)
                await asyncio.sleep(SAMPLE_S)

        with out.bar("memory", PARTS + 1) as bar:
            for part in range(PARTS + 1):
                bar.update(part, "warm-up" if part == 0 else f"{resident[-1]:.0f} MiB")
                resident.clear()
                watching = asyncio.create_task(watch())
                began = time.perf_counter()
                names = [f"p{part:02d}-{person:04d}" for person in range(people)]
                histories = ([engagement(part * HISTORY + n) for n in range(HISTORY)] for _ in names)
                await post_engagements(client, zip(names, histories, strict=True), writers)
                sent = time.perf_counter()
                traces = await write_traces(client, names[:thought])
                done = time.perf_counter()
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
                if part:
                    report.row(
                        tenth=part,
                        engagements=people * HISTORY,
                        traces=traces,
                        rss_mib=spread(resident),
                        traces_per_s=traces / (done - sent),
                        seconds=done - began,
                    )
            bar.finish("measured")
    parts = [row["rss_mib"].median for row in report.rows if "tenth" in row]  # type: ignore[union-attr]
    report.bar("resident memory, last tenth over second", parts[-1] / parts[1], at_most=1.10)


async def write_traces(client: AsyncMindprintClient, users: list[str]) -> int:
    """One candidate for each engagement; returns how many were written."""
    batch = await client.batches.create(BatchRequest(users=users, candidates=1))
    async for progress in client.batches.watch(batch.id):
        batch = progress
    if batch.state != "done":
        raise CannotMeasure(f"the batch is {batch.state}: {batch.error}")
    return batch.funnel.generated


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    writers: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 8,
    users: Annotated[int, typer.Option(min=1, help="Users over whom the timed engagements are spread.")] = 1000,
) -> None:
    sizes = SMALL if quick else FULL

    async def work(out: Output, report: Report) -> None:
        await measure_rates(out, report, sizes, writers, users)
        await measure_memory(out, report, sizes, writers)

    measure(__doc__, "about a minute" if quick else "about five minutes", json_file, work)


if __name__ == "__main__":
    typer.run(main)
