"""A long run of the real server on a tiny model under mixed load: do memory, threads and descriptors stay flat?"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.table import Table

from kills.actions import make_engagement
from mindprint.local.cluster import LocalCluster
from tiny import TARGETS, make_model

WARM_UP_SHARE = 0.25
"""Share of the run whose samples are not judged: caches fill, and the allocator finds its size."""
MAX_GROWTH = 0.05
"""Largest growth, as a share, from the first to the last quarter of the judged samples."""
SAMPLES = 120
"""Number of samples of a run."""
MIN_SAMPLE_S = 1.0
ACTIONS = ("chat", "stream", "leave", "trace", "batch")
MIN_DONE = 1
"""Smallest number of times that each action must be done to its end, so that a run says something about it."""
CALLERS = 6
USERS = 8
SETTINGS = {
    "DTYPE": "float32", "KV_CACHE_GIB": "0.25", "MAX_NUM_SEQS": "8", "BATCH_MAX_IN_FLIGHT": "4",
    "MAX_THINKING_TOKENS": "12", "MAX_ANSWER_TOKENS": "8", "MIN_THINKING_WORDS": "0", "PREFILTER_BY_PRIOR": "false",
    "MIN_ANSWER_FREQUENCY": "0", "MIN_GAIN": "null", "MIN_ANCHOR": "null", "GATE": "false", "PROFILE_TOKENS": "16",
    "LOG_LEVEL": "warning", "TARGET_MODULES": str(TARGETS).replace("'", '"'),
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What the server and its engine process take together.

    Attributes:
        seconds: Time since the begin of the load.
        rss_bytes: Resident memory.
        threads: Number of threads.
        descriptors: Number of open file descriptors.
    """

    seconds: float
    rss_bytes: int
    threads: int
    descriptors: int


MEASURES = ("rss_bytes", "threads", "descriptors")


@dataclass(frozen=True)
class Trend:
    """How a measure moved after the warm-up.

    Attributes:
        first: Median of the first quarter.
        last: Median of the last quarter.
        slope_per_hour: Slope of the least squares line.
        growth: `last` against `first`, as a share.
        is_flat: Whether it grew by at most `MAX_GROWTH`.
    """

    first: float
    last: float
    slope_per_hour: float
    growth: float
    is_flat: bool


@dataclass(frozen=True)
class Soaked:
    """What a run found: answers by status, what was done to the end by action, and the trend of each measure."""

    seconds: float
    answers: dict[str, int]
    done: dict[str, int]
    trends: dict[str, Trend]
    samples: list[Sample] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Return whether all measures are flat, each action was done, and no answer was a fault or a refusal.

        A server that refuses, or whose batches stand still, is flat too. Nothing that the callers send is wrong.
        """
        is_refused = any(not answer.startswith("2") and answer != "503" for answer in self.answers)
        is_loaded = all(self.done.get(action, 0) >= MIN_DONE for action in ACTIONS)
        return is_loaded and not is_refused and all(trend.is_flat for trend in self.trends.values())


def find_trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the trend of a measure after the warm-up.

    Args:
        times: Seconds of the samples, ascending; at least eight.
        values: One value a sample.
    """
    begin = round(len(values) * WARM_UP_SHARE)
    times, values = times[begin:], values[begin:]
    quarter = max(1, len(values) // 4)
    first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    slope = float(np.polyfit(times, values, 1)[0]) * 3600
    growth = last / first - 1
    return Trend(first, last, slope, growth, growth <= MAX_GROWTH)


async def soak(seconds: float, folder: Path, seed: int) -> Soaked:
    """Run the server under load.

    Args:
        seconds: Duration of the load.
        folder: An empty folder.
        seed: Seed of the callers.
    """
    model = await asyncio.to_thread(make_model, folder / "model", seed=seed)
    with LocalCluster(folder, grace_s=0) as cluster:
        server = await cluster.start_server(model, SETTINGS)
        load = Load(cluster.url, random.Random(seed))
        await load.prepare()
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for n in range(CALLERS):
                tasks.create_task(load.work(n, stopped))
            samples = await _watch(psutil.Process(server.pid), seconds)
            stopped.set()
        await load.close()
    times = [one.seconds for one in samples]
    trends = {name: find_trend(times, [getattr(one, name) for one in samples]) for name in MEASURES}
    return Soaked(seconds, dict(sorted(load.answers.items())), dict(sorted(load.done.items())), trends, samples)


async def _watch(server: psutil.Process, seconds: float) -> list[Sample]:
    began, samples = time.monotonic(), list[Sample]()
    pause = max(MIN_SAMPLE_S, seconds / SAMPLES)
    while time.monotonic() - began < seconds:
        samples.append(_measure(server, time.monotonic() - began))
        await asyncio.sleep(pause)
    return samples


def _measure(server: psutil.Process, seconds: float) -> Sample:
    processes = [server, *server.children(recursive=True)]
    return Sample(
        seconds,
        sum(process.memory_info().rss for process in processes),
        sum(process.num_threads() for process in processes),
        sum(process.num_fds() for process in processes),
    )


class Load:
    """Callers that chat, stream, leave streams, write traces and run batches."""

    def __init__(self, url: str, dice: random.Random) -> None:
        # The server asks for no key on loopback; proxies of the environment stay unused.
        self._client = httpx.AsyncClient(base_url=url, timeout=600, trust_env=False)
        self._dice = dice
        self._number = 0
        self.answers: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    async def prepare(self) -> None:
        """Store engagements of all users."""
        for n in range(USERS):
            events = [make_engagement(f"u{n}", k).model_dump(mode="json") for k in range(12)]
            response = await self._client.post(f"/v1/users/u{n}/engagements", json={"engagements": events})
            response.raise_for_status()
        self._number = 12

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def work(self, caller: int, stopped: asyncio.Event) -> None:
        """Act at random until `stopped` is set. The first caller runs batches only, one after the other."""
        actions: list[Callable[[], Awaitable[None]]] = [self._chat, self._stream, self._leave, self._trace]
        while not stopped.is_set():
            await (self._batch(stopped) if caller == 0 else self._dice.choice(actions)())

    def _user(self) -> str:
        return f"u{self._dice.randrange(USERS)}"

    def _question(self, **more: Any) -> dict[str, Any]:
        content = f"A walk, number {self._dice.randrange(1000)}?"
        messages = [{"role": "user", "content": content}]
        return {"model": "base", "messages": messages, "max_tokens": self._dice.randint(4, 24), **more}

    def _count(self, response: httpx.Response, action: str | None = None) -> None:
        """Count an answer by its status; one that ends an action counts as done if it is a success."""
        self.answers[str(response.status_code)] += 1
        if action is not None and response.is_success:
            self.done[action] += 1

    async def _chat(self) -> None:
        self._count(await self._client.post("/v1/chat/completions", json=self._question(user=self._user())), "chat")

    async def _stream(self) -> None:
        if "data: [DONE]" in await self._read_stream(None):
            self.done["stream"] += 1

    async def _leave(self) -> None:
        if await self._read_stream(self._dice.randint(1, 3)):
            self.done["leave"] += 1

    async def _read_stream(self, most: int | None) -> list[str]:
        """Read a stream to its end, or `most` lines of it, and return them."""
        lines: list[str] = []
        async with self._client.stream("POST", "/v1/chat/completions", json=self._question(stream=True)) as response:
            self._count(response)
            async for line in response.aiter_lines():
                lines.append(line)
                if len(lines) == most:
                    break
        return lines if response.is_success else []

    async def _trace(self) -> None:
        body = {"user_id": self._user(), "query": "A walk?", "choices": ["yes", "no"], "max_thinking_tokens": 8}
        self._count(await self._client.post("/v1/traces", json=body), "trace")

    async def _batch(self, stopped: asyncio.Event) -> None:
        user, self._number = self._user(), self._number + 4
        events = [make_engagement(user, self._number + k).model_dump(mode="json") for k in range(4)]
        self._count(await self._client.post(f"/v1/users/{user}/engagements", json={"engagements": events}))
        response = await self._client.post("/v1/batches", json={"users": [user], "seed": self._dice.randrange(2**31)})
        self._count(response)
        while response.is_success and response.json().get("state") in ("queued", "running") and not stopped.is_set():
            await asyncio.sleep(0.5)
            response = await self._client.get(f"/v1/batches/{response.json()['id']}")
        self.done["batch"] += response.is_success and response.json().get("state") == "done"


def as_json(found: Soaked) -> dict[str, Any]:
    """Return the whole report."""
    return {"holds": found.holds, **asdict(found)}


def as_table(found: Soaked) -> Table:
    """Return a row for each measure."""
    table = Table(
        "", "first quarter", "last quarter", "an hour", "growth", "flat", title=f"soak of {found.seconds:.0f} s"
    )
    for name, trend in found.trends.items():
        unit, words = (1 << 20, "memory, MiB") if name == "rss_bytes" else (1, name)
        figures = [trend.first / unit, trend.last / unit, trend.slope_per_hour / unit]
        flat = "yes" if trend.is_flat else "no"
        table.add_row(words, *(f"{figure:,.1f}" for figure in figures), f"{trend.growth:+.1%}", flat)
    return table
