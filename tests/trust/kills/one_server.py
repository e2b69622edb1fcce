"""One server that is killed and started again, and accepted traces for a trainer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from databases import new_database
from kills.cluster import Cluster
from samples import engagement


@contextlib.asynccontextmanager
async def running(folder: Path, **variables: str) -> AsyncIterator[tuple[Cluster, httpx.AsyncClient]]:
    """Start a server on the fake engine; yield its cluster and a client of it."""
    async with new_database("sqlite", folder) as url:
        cluster = Cluster(folder, url, replicas=1, trainers=0, seed=0, variables=variables)
        headers = {"Authorization": f"Bearer {cluster.key}"}
        try:
            cluster.start(cluster.servers[0])
            await cluster.wait_until_ready(cluster.servers[0])
            async with httpx.AsyncClient(
                base_url=cluster.urls[0], headers=headers, timeout=30, trust_env=False
            ) as client:
                yield cluster, client
        finally:
            cluster.close()


async def restart(cluster: Cluster, away_s: float) -> None:
    """Kill the server, and start it again after some seconds."""
    server = cluster.servers[0]
    cluster.kill(server)
    await asyncio.sleep(away_s)
    cluster.start(server)
    await cluster.wait_until_ready(server)


async def add_trace(client: httpx.AsyncClient, number: int) -> None:
    """Store an engagement of `ann` with an accepted trace, which waits for a trainer."""
    event = engagement(number)
    body = json.loads(json.dumps({"engagements": [event.model_dump(mode="json")]}))
    (await client.post("/v1/users/ann/engagements", json=body)).raise_for_status()
    traces = {"traces": [{"engagement_id": event.id, "thinking": f"thought {number}"}]}
    (await client.post("/v1/users/ann/traces", json=traces)).raise_for_status()
