"""A server process on an empty store, and the traces that it is asked to write."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from mindprint import AsyncMindprintClient
from mindprint.datasets import UserDataset
from mindprint.local.cluster import LocalCluster
from mindprint.local.console import Output
from mindprint.local.processes import Child
from mindprint.model_files import resolve
from mindprint.types import Batch, BatchRequest, Engagement
from support.harness import CannotMeasure
from support.workload import PROFILE_NEVER

SETTINGS = {
    "GATE": "false",
    "HOLDOUT_SHARE": "0",
    "REPLAY_SHARE": "0",
    "PROFILE_EVERY": str(PROFILE_NEVER),
    "PREFILTER_BY_PRIOR": "false",
    "EARLY_STOP_MARGIN_NATS": "null",
    "MIN_ANSWER_FREQUENCY": "0",
    "MIN_GAIN": "null",
    "MIN_ANCHOR": "null",
    "ANCHOR_POOL": "0",
    "MAX_THINKING_TOKENS": "32",
}
GATED = {
    "GATE": "true",
    "HOLDOUT_SHARE": "0.25",
    "GATE_SCORE_SLACK": "1000",
    "GATE_MAX_COLLAPSE_RISE": "1",
    "GATE_MIN_LENGTH_RATIO": "0.001",
    "GATE_MAX_LENGTH_RATIO": "1000",
    "GATE_MAX_GENERAL_DROP": "100",
}
"""A gate that asks all that it would ask, and lets whatever is answered pass."""
START_S = 300
TRIES = 4
"""Batches, each over further engagements, until there are traces enough."""


@dataclass(frozen=True)
class Server:
    cluster: LocalCluster
    child: Child
    client: AsyncMindprintClient
    http: httpx.AsyncClient
    """Repeats nothing: every failure is seen."""

    def cpu_seconds(self) -> float:
        """Of the server and its engine, since they began."""
        process = psutil.Process(self.child.pid)
        times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


@asynccontextmanager
async def run_server(
    model: str, out: Output, *, gate: bool = False, extra: Mapping[str, str] | None = None
) -> AsyncIterator[Server]:
    """Run a server process on an empty store, with `extra` settings; yield it when ready. Raises ProcessFailed."""
    settings = (SETTINGS | GATED if gate else SETTINGS) | dict(extra or {})
    with (
        tempfile.TemporaryDirectory(prefix="mindprint-reload-") as folder,
        LocalCluster(Path(folder), output=out) as cluster,
    ):
        child = await cluster.start_server(resolve(model), settings, timeout_s=START_S)
        url = cluster.url
        async with AsyncMindprintClient(url) as client, httpx.AsyncClient(base_url=url, timeout=START_S) as http:
            yield Server(cluster, child, client, http)


def engagements_of_part(person: UserDataset, part: int, each: int) -> Sequence[Engagement]:
    return person.engagements[part * each : (part + 1) * each]


async def run_batch(server: Server, users: Sequence[str], seed: int, out: Output) -> Batch:
    """Run a batch to its end. Raises CannotMeasure."""
    now = begun = await server.client.batches.create(BatchRequest(users=list(users), seed=seed))
    with out.bar("traces", begun.items) as bar:
        async for now in server.client.batches.watch(begun.id):
            bar.update(now.done, f"{now.funnel.accepted} accepted")
        bar.finish(f"{now.funnel.accepted} accepted for {', '.join(users)}")
    if now.state != "done":
        raise CannotMeasure(f"the batch ended as {now.state}: {now.error}")
    return now
