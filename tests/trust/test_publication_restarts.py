"""An upload to a slow server that is killed while it checks: it ends live, and is one version."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from kills.one_server import add_trace, restart, running
from kills.processes import DELAY, parity_items
from mindprint import AsyncMindprintClient, Retries, Timeouts
from mindprint.types import LeaseRequest, Manifest, Publication
from weights import adapter_config, weights_file

STEP_S = 0.4
"""Seconds of one step of the engine. The parity check has at least eight steps."""
BOUND_S = 2.0
"""Longest wait of the client for an answer: less than the parity check takes."""


async def test_upload_whose_check_outlasts_each_time_out_and_a_kill_ends_live_once(tmp_path: Path) -> None:
    async with running(tmp_path, **{DELAY: str(STEP_S)}) as (cluster, http):
        await add_trace(http, 0)
        weights, states = weights_file(), list[str]()
        bounds = Timeouts(connect_s=BOUND_S, read_s=BOUND_S, slow_s=BOUND_S)
        async with AsyncMindprintClient(
            cluster.urls[0], cluster.key, timeouts=bounds, retries=Retries(attempts=50, wait_max_s=0.5)
        ) as client:
            lease = await client.leases.claim(LeaseRequest(owner="t", ttl_s=1.0))
            assert lease is not None
            manifest = Manifest(
                adapter=lease.adapter, base_digest=lease.base_digest, trace_ids=lease.trace_ids, settings={},
                weights_sha256=hashlib.sha256(weights).hexdigest(), samples={"slow": 1}, losses={}, tokens=1,
                seconds=0.1, trainer="t", parity_items=parity_items(),
            )  # fmt: skip
            is_checked = asyncio.Event()

            def note(publication: Publication) -> None:
                states.append(publication.state)
                if publication.state == "parity_check":
                    is_checked.set()

            upload = (lease.id, manifest, adapter_config(), weights)
            completing = asyncio.create_task(client.leases.complete(*upload, on_progress=note, poll_s=0.1))
            await asyncio.wait_for(is_checked.wait(), 60)
            await restart(cluster, away_s=0.2)
            version = await asyncio.wait_for(completing, 120)
            assert (version.state, version.version) == ("live", 1)
            again = await client.leases.upload(*upload)
            assert (again.state, again.result) == ("published", version)
            seconds = (again.steps["gate"] - again.steps["parity_check"]).total_seconds()
            assert seconds > BOUND_S, "the check outlasts every time-out of the client"
            assert again.tries == 2
        assert states[-1] == "published"
