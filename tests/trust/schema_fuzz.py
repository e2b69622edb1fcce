"""Requests that schemathesis makes of the OpenAPI schema, single and in chains, with keys of three scopes and two
tenants."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from kills.actions import make_engagement
from kills.cluster import Cluster
from kills.processes import StandInTrainer
from mindprint.types import Scope

HERE = Path(__file__).resolve().parent
USERS = ("ann", "ben")
KEYS: tuple[tuple[Scope, str | None], ...] = (("admin", None), ("train", None), ("read", None), ("admin", "other"))
"""Scopes and tenants of the keys. The first is the key of the settings, of `default`."""
NAMES = tuple(scope if tenant is None else f"{scope}-{tenant}" for scope, tenant in KEYS)
RUN = "from schemathesis.cli import schemathesis; schemathesis()"
PHASES = "coverage,fuzzing,stateful"
"""Phases of schemathesis: each bound of the schema once, single requests, chains of requests."""
FILLED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Fuzzed:
    """What came of the requests with one key.

    Attributes:
        key: Scope of the key, and its tenant.
        cases: Number of requests.
        failures: Operations by the kind of failure.
        operations: Number of operations that were asked.
        reached: Number of operations that answered valid requests with 2xx.
        seconds: Duration.
        log: What schemathesis wrote.
    """

    key: str
    cases: int
    failures: dict[str, list[str]]
    operations: int
    reached: int
    seconds: float
    log: str


def as_json(results: Sequence[Fuzzed]) -> dict[str, Any]:
    """Return the results without the logs."""
    runs = [{name: value for name, value in asdict(one).items() if name != "log"} for one in results]
    return {"holds": not any(one.failures for one in results), "runs": runs}


def as_table(results: Sequence[Fuzzed]) -> Table:
    """Return a row for each key."""
    table = Table(
        "key", "requests", "operations", "reached", "failures", "seconds", title="requests made of the schema"
    )
    for one in results:
        failed = "; ".join(f"{kind}: {', '.join(operations)}" for kind, operations in one.failures.items())
        figures = (one.cases, one.operations, one.reached)
        table.add_row(one.key, *map(str, figures), failed or "0", f"{one.seconds:.0f}")
    return table


async def fuzz(folder: Path, database_url: str, *, examples: int, seed: int, is_short: bool = False) -> list[Fuzzed]:
    """Start a server on the fake engine, fill it, and send it generated requests with each key.

    Args:
        folder: An empty folder for logs and data.
        database_url: An empty database.
        examples: Requests for each operation and phase.
        seed: Seed of schemathesis.
        is_short: Send the keys that may do less fewer requests, in no chains.
    """
    results = []
    async with _filled_server(folder, database_url) as (url, admin):
        for (scope, tenant), name in zip(KEYS, NAMES, strict=True):
            key = admin if name == "admin" else await _create_key(url, admin, scope, tenant)
            phases = "fuzzing" if is_short and name != "admin" else PHASES
            results.append(await asyncio.to_thread(run_schemathesis, url, key, name, examples, seed, folder, phases))
    return results


def run_schemathesis(
    url: str, key: str, name: str, examples: int, seed: int, folder: Path, phases: str = PHASES
) -> Fuzzed:
    """Run schemathesis against a server and read its report."""
    began, report = time.monotonic(), folder / f"schemathesis-{name}.json"
    command = [
        *(sys.executable, "-c", RUN, "--config-file", str(HERE / "schemathesis.toml"), "run", f"{url}/openapi.json"),
        *("--header", f"Authorization: Bearer {key}", "--max-examples", str(examples), "--seed", str(seed)),
        *("--phases", phases, "--no-shrink", "--no-color", "--generation-database", "none"),
        *("--report", "json", "--report-json-path", str(report)),
    ]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    (folder / f"schemathesis-{name}.log").write_text(log)
    if not report.exists():
        raise RuntimeError(f"schemathesis wrote no report: {log[-2000:]}")
    found = json.loads(report.read_text())
    failures = {f"{one['code']} {one['title']}": one["operations"] for one in found["failures"] + found["errors"]}
    rates = found["valid_rates"]
    return Fuzzed(
        key=name,
        cases=found["test_cases"]["generated"],
        failures=failures,
        operations=found["operations"]["tested"],
        reached=sum(any(phase["accepted"] for phase in phases.values()) for phases in rates.values()),
        seconds=time.monotonic() - began,
        log=log,
    )


@asynccontextmanager
async def _filled_server(folder: Path, database_url: str) -> AsyncIterator[tuple[str, str]]:
    cluster = Cluster(folder, database_url, replicas=1, trainers=0, seed=0)
    try:
        cluster.start(cluster.servers[0])
        await cluster.wait_until_ready(cluster.servers[0])
        await fill(cluster.urls[0], cluster.key)
        yield cluster.urls[0], cluster.key
        await cluster.stop(cluster.servers[0])
    finally:
        cluster.close()


async def fill(url: str, key: str) -> None:
    """Store users with engagements, traces and a version each, and a cohort."""
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client:

        async def send(method: str, path: str, body: Any) -> None:
            (await client.request(method, path, json=body, timeout=FILLED_WITHIN_S)).raise_for_status()

        for user in USERS:
            events = [make_engagement(user, n).model_dump(mode="json") for n in range(8)]
            await send("POST", f"/v1/users/{user}/engagements", {"engagements": events})
            thoughts = [{"engagement_id": event["id"], "thinking": f"about {event['id']}"} for event in events]
            await send("POST", f"/v1/users/{user}/traces", {"traces": thoughts[:4]})
        await _train(client, url, key)
        for user in USERS:
            await send("POST", f"/v1/users/{user}/traces", {"traces": thoughts[4:]})
        await send("PUT", "/v1/cohorts/team", {"description": "a team"})


async def _train(client: httpx.AsyncClient, url: str, key: str) -> None:
    """Let a stand-in trainer publish a version of each user."""
    stopped, journal = threading.Event(), Path("/dev/null")
    trainer = StandInTrainer([url], key, journal, random.Random(0))
    working = asyncio.create_task(asyncio.to_thread(trainer.work, stopped))
    try:
        async with asyncio.timeout(FILLED_WITHIN_S):
            while True:
                adapters = (await client.get("/v1/adapters")).json()["adapters"]
                if len([one for one in adapters if one["live"]]) >= len(USERS):
                    return
                await asyncio.sleep(0.05)
    finally:
        stopped.set()
        await working
        trainer.close()


async def _create_key(url: str, admin: str, scope: Scope, tenant: str | None) -> str:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {admin}"}, trust_env=False) as client:
        response = await client.post(f"{url}/v1/keys", json={"name": scope, "scopes": [scope], "tenant": tenant})
    response.raise_for_status()
    return str(response.json()["key"])
