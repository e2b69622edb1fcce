"""One run: work, kills, a quiet end, and the check."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from kills.actions import Caller, Worker
from kills.checker import FINAL, Violation, count_violations, find_violations
from kills.cluster import Cluster, Member
from kills.facts import Facts
from kills.killer import Fault, Killer
from kills.readback import list_artifacts, observe, pages, read_batches, read_journal

DAY_S = 86_400.0
POLL_S = 0.1
COLLECTS_WITHIN_S = 60.0
"""Seconds to wait for the collection of orphans after the start. What is left then is found by the check."""
ENDS_WITHIN_S = 300.0
"""Seconds in which all batches must end after the last kill. It bounds a run that would hang."""


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        database: `sqlite` or `postgresql`.
        kills: Number of kills.
        seed: Seed of callers, kills and trainers.
        replicas: Number of servers on the database.
        workers: Number of callers.
        trainers: Number of stand-in trainers.
    """

    database: str
    kills: int
    seed: int = 0
    replicas: int = 1
    workers: int = 3
    trainers: int = 2


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        plan: What it did.
        killed: Number of kills by process, or of faults by name.
        acknowledged: Number of acknowledged facts by kind.
        answers: Number of answers by status.
        found: Number of violations by check.
        violations: The violations.
        recovery_s: Median and longest time from the restart of a server until it was ready, in seconds.
        seconds: Duration of the run.
    """

    plan: Plan
    killed: dict[str, int]
    acknowledged: dict[str, int]
    answers: dict[str, int]
    found: dict[str, int]
    violations: list[Violation] = field(default_factory=list)
    recovery_s: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0


async def run_kills(plan: Plan, folder: Path, database_url: str, faults: Mapping[str, Fault] | None = None) -> Outcome:
    """Do a run.

    Args:
        plan: What to do.
        folder: An empty folder for logs and data.
        database_url: An empty database.
        faults: If there are some, these are done instead of kills, by name.

    Raises:
        ProcessFailed: A process did not start, or ended by itself.
        Stalled: Nothing was answered for a long time.
    """
    began, facts, dice = time.monotonic(), Facts(), random.Random(plan.seed)
    cluster = Cluster(folder, database_url, replicas=plan.replicas, trainers=plan.trainers, seed=plan.seed)
    try:
        await _start(cluster)
        killer = Killer(cluster, facts, random.Random(dice.random()), faults)
        await _work_and_kill(plan, cluster, facts, killer, dice)
        async with _client(cluster) as client:
            await _until_batches_end(client)
            for trainer in cluster.trainers:
                await cluster.stop(trainer)
                read_journal(cluster.journal(trainer), facts)
            await _collect_garbage(cluster, client, facts)
            observed = await observe(
                client, facts, [cluster.data_dir(server) for server in cluster.servers], cluster.artifacts
            )
        for server in cluster.servers:
            await cluster.stop(server)
    finally:
        cluster.close()
    violations = find_violations(facts, observed)
    recovery = killer.recovery_s or [0.0]
    return Outcome(
        plan=plan,
        killed=killer.killed,
        acknowledged=facts.counts(),
        answers=dict(sorted(facts.answers.items())),
        found=count_violations(violations),
        violations=violations,
        recovery_s=(statistics.median(recovery), max(recovery)),
        seconds=time.monotonic() - began,
    )


async def _start(cluster: Cluster) -> None:
    # One after the other: the first creates the tables.
    for server in cluster.servers:
        cluster.start(server)
        await cluster.wait_until_ready(server)
    for trainer in cluster.trainers:
        cluster.start(trainer)


async def _work_and_kill(plan: Plan, cluster: Cluster, facts: Facts, killer: Killer, dice: random.Random) -> None:
    stopped = asyncio.Event()
    callers = [Caller(cluster.urls, cluster.key, facts, random.Random(dice.random())) for _ in range(plan.workers)]
    workers = [
        Worker(f"w{n}", caller, facts, random.Random(dice.random())).work(stopped) for n, caller in enumerate(callers)
    ]

    async def kill() -> None:
        try:
            await killer.kill(plan.kills)
        finally:
            stopped.set()

    try:
        async with asyncio.TaskGroup() as tasks:
            for work in (kill(), *workers):
                tasks.create_task(work)
    finally:
        await asyncio.gather(*(caller.close() for caller in callers))


async def _until_batches_end(client: httpx.AsyncClient) -> None:
    """Wait for the batches; one that does not end is found by the check."""
    for _ in range(round(ENDS_WITHIN_S / POLL_S)):
        if all(batch.state in (*FINAL, "failed") for batch in await read_batches(client)):
            return
        await asyncio.sleep(POLL_S)


async def _collect_garbage(cluster: Cluster, client: httpx.AsyncClient, facts: Facts) -> None:
    """Let the servers remove what kills left: at a restart, and at an upload, once it is old."""
    # A trainer that was killed or stopped left its lease open, and an upload under it could still come.
    for lease in facts.leases:
        response = await client.post(f"/v1/leases/{lease}/release")
        assert response.is_success or response.json()["error"]["code"] == "lease_lost", response.text
    cluster.age_files(DAY_S)
    for server in cluster.servers:
        await _restart(cluster, server)
    for _ in range(round(COLLECTS_WITHIN_S / POLL_S)):
        adapters = [one async for one in pages(client, "/v1/adapters", "adapters")]
        with_files = sum(version["files"] for adapter in adapters for version in adapter["versions"])
        digests, unfinished = list_artifacts(cluster.artifacts)
        if len(digests) <= with_files and not unfinished:
            break
        await asyncio.sleep(POLL_S)
    for url, lease in zip(cluster.urls, list(facts.leases) * len(cluster.urls), strict=False):
        await client.post(f"{url}/v1/leases/{lease}/complete", files={"another": b""})


async def _restart(cluster: Cluster, server: Member) -> None:
    cluster.kill(server)
    cluster.start(server)
    await cluster.wait_until_ready(server)


def _client(cluster: Cluster) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {cluster.key}"}
    return httpx.AsyncClient(base_url=cluster.urls[0], headers=headers, timeout=300, trust_env=False)
