"""The trainer's real loop beside a server that is killed and started again: it goes on, and no work is lost."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from kills.cluster import Cluster
from kills.one_server import add_trace, restart, running
from kills.processes import parity_items
from mindprint import MindprintClient, Retries
from mindprint.types import Manifest
from mindprint_trainer.errors import Stopped
from mindprint_trainer.model.peft_io import AdapterFiles
from mindprint_trainer.reporting.progress import LogReporter
from mindprint_trainer.settings import Settings
from mindprint_trainer.training import parallel
from mindprint_trainer.training.multi_adapter import TrainedAdapter, TrainingJob
from mindprint_trainer.worker import Worker
from weights import adapter_config, data_of, weights_file

RESTARTS = 10
WITHIN_S = 120.0
"""Bounds a test that would hang."""


class FakeTraining:
    """Stands in for `parallel.train_jobs`: it trains nothing, and waits in the middle until `go` is set."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.jobs = 0

    def __call__(self, base: Any, jobs: Sequence[TrainingJob], *_: Any) -> Iterator[tuple[TrainingJob, TrainedAdapter]]:
        for job in jobs:
            self.jobs += 1
            self.begun.release()
            assert self.go.wait(WITHIN_S)
            job.raise_if_lost()
            yield job, self.adapter_of(job)

    def adapter_of(self, job: TrainingJob) -> TrainedAdapter:
        lease, weights = job.lease, weights_file(data=data_of(values=self.jobs / 100))
        digest = hashlib.sha256(weights).hexdigest()
        manifest = Manifest(
            adapter=lease.adapter, base_digest=lease.base_digest, weights_sha256=digest, trace_ids=lease.trace_ids,
            samples={"slow": len(lease.trace_ids)}, settings={}, losses={}, tokens=1, seconds=0.1, trainer="fake",
            parity_items=parity_items(),
        )  # fmt: skip
        return TrainedAdapter(manifest, AdapterFiles(config=adapter_config(), weights=weights))


class Trainer:
    """The real worker, in a thread."""

    def __init__(self, cluster: Cluster, base_digest: str, folder: Path) -> None:
        settings = Settings(
            server=cluster.urls[0], work_dir=folder, ttl_s=30, poll_s=0.05, absence_max_wait_s=0.2, min_traces=1,
            max_failures=1, checkpoints=False,
        )  # fmt: skip
        self.stopped = threading.Event()
        self.error: BaseException | None = None
        brief = Retries(attempts=2, wait_max_s=0.1, jitter_s=0.1)
        self._client = MindprintClient(cluster.urls[0], cluster.key, retries=brief)
        base: Any = SimpleNamespace(digest=base_digest)

        def heartbeats() -> MindprintClient:
            return MindprintClient(cluster.urls[0], cluster.key, retries=Retries(attempts=1))

        self.worker = Worker(settings, base, self._client, heartbeats, LogReporter(60), self._raise_if_stopped)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._thread.join(WITHIN_S)
        self._client.close()
        assert not self._thread.is_alive()

    def _raise_if_stopped(self) -> None:
        if self.stopped.is_set():
            raise Stopped(15)

    def _run(self) -> None:
        try:
            self.worker.run()
        except Stopped:
            pass
        except BaseException as error:
            self.error = error


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(parallel, "train_jobs", fake)
    return fake


async def versions_of(client: httpx.AsyncClient) -> int:
    reply = await client.get("/v1/adapters/user/ann")
    return len(reply.json()["versions"]) if reply.is_success else 0


async def until(check: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await check():  # noqa: ASYNC110 (another process has no event here)
            await asyncio.sleep(0.02)


async def test_trainer_lives_through_ten_restarts_of_the_server(training: FakeTraining, tmp_path: Path) -> None:
    """A third of the kills comes while it waits for traces, a third while it trains, a third while it uploads."""
    async with running(tmp_path) as (cluster, client):
        digest = (await client.get("/v1/info")).json()["base_digest"]
        trainer = Trainer(cluster, digest, tmp_path / "work")
        try:
            for number in range(RESTARTS):
                when = ("idle", "training", "upload")[number % 3]
                training.go.clear()
                if when == "idle":
                    await restart(cluster, away_s=0.3)
                await add_trace(client, number)
                assert await asyncio.to_thread(training.begun.acquire, timeout=WITHIN_S)
                if when == "training":
                    await restart(cluster, away_s=0.3)
                if when == "upload":
                    cluster.kill(cluster.servers[0])
                    training.go.set()
                    await asyncio.sleep(0.3)
                    cluster.start(cluster.servers[0])
                    await cluster.wait_until_ready(cluster.servers[0])
                training.go.set()

                async def is_published(count: int = number + 1) -> bool:
                    assert trainer.error is None
                    return len(trainer.worker.outcomes) == await versions_of(client) == count

                await until(is_published)
                assert trainer.error is None
        finally:
            training.go.set()
            trainer.stop()
        assert trainer.error is None
        assert len(trainer.worker.outcomes) == RESTARTS
        assert all(outcome.result.startswith("version ") for outcome in trainer.worker.outcomes)
        assert training.jobs == RESTARTS, "nothing was trained twice"
        traces = (await client.get("/v1/traces")).json()["traces"]
        assert [trace["state"] for trace in traces] == ["trained"] * RESTARTS
