"""The real processes on a tiny model: engagements, traces, a killed trainer, adapters, answers, a dead engine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import doc_pages
from doc_pages import DOCS, README
from mindprint import MindprintClient
from mindprint.local.cluster import LocalCluster
from mindprint.local.processes import Child
from mindprint.types import BatchRequest, TraceRequest
from mindprint_demo.trace_accounting import account_for_traces
from samples import engagement
from tiny import make_model
from tiny_servers import TRAINED

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
USERS = ("ann", "bob")
PAGES = (README, DOCS / "tutorial" / "first-adapter.md")


class World:
    """One server address, its data, and the processes around it."""

    def __init__(self, folder: Path, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.url = cluster.url
        self._model = make_model(folder / "model")
        self._trainers = 0

    def server(self) -> Child:
        return asyncio.run(self.start_server())

    async def start_server(self) -> Child:
        return await self._cluster.start_server(self._model, TRAINED | {"HEALTH_INTERVAL_S": "0.5"})

    def trainer(self) -> Child:
        """A trainer that takes long enough to be killed in the middle."""
        self._trainers += 1
        return self._cluster.start_trainer(
            f"trainer-{self._trainers}",
            {
                "TTL_S": "3",
                "MIN_TRACES": "1",
                "EPOCHS": "12",
                "LEARNING_RATE": "0.01",
            },
        )


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """A world whose processes are killed at the end: vLLM takes 7 s to end by itself."""
    with LocalCluster(folder, grace_s=0) as cluster:
        yield World(folder, cluster)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path) as world:
        yield world


@pytest.fixture(scope="module")
def page_worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, World]]:
    """A new server for each of `PAGES`. They start together, since a start keeps one core busy."""

    async def start(worlds: Iterable[World]) -> None:
        await asyncio.gather(*(world.start_server() for world in worlds))

    with ExitStack() as stack:
        worlds = {page: stack.enter_context(open_world(tmp_path_factory.mktemp("page"))) for page in PAGES}
        asyncio.run(start(worlds.values()))
        yield worlds


@pytest.mark.parametrize("page", PAGES, ids=doc_pages.name)
def test_examples_of_readme_and_tutorial_run(page_worlds: dict[Path, World], page: Path) -> None:
    """Run every python and bash block that talks to a server, in order, against a real one."""
    world = page_worlds[page]
    blocks = [block for block in doc_pages.blocks(page) if block.language in ("python", "bash")]
    assert len(blocks) >= 2
    assert "OpenAI(" in blocks[-1].code
    for block in blocks:
        command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*command, block.code.replace("http://127.0.0.1:8300", world.url)],
            env=os.environ | {"MINDPRINT_URL": world.url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip()


def children(pid: int) -> dict[int, str]:
    """Descendants of a process with their titles."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found: dict[int, str] = {}
    parents = {pid}
    while new := {int(r[0]): r[2] for r in rows if int(r[1]) in parents and int(r[0]) not in found}:
        found |= new
        parents = set(new)
    return found


def test_the_loop_survives_what_kills_its_processes(world: World) -> None:
    server = world.server()
    with MindprintClient(world.url) as client:
        for user in USERS:
            client.users.add_engagements(user, [engagement(n) for n in range(12)])
        batch = client.batches.create(BatchRequest(candidates=4, idempotency_key="once"))

        # The server dies in the middle of the batch: what was answered is there, the rest goes on.
        until(lambda: client.batches.get(batch.id).done >= 4, 120)
        before = client.batches.get(batch.id)
        server.kill()
        server = world.server()
        assert client.batches.get(batch.id).done >= before.done
        assert client.batches.create(BatchRequest(candidates=4, idempotency_key="once")).id == batch.id
        *_, last = client.batches.watch(batch.id)
        assert (last.state, last.done) == ("done", 24)
        traces = list(client.batches.results(batch.id))
        accepted = [trace for trace in traces if trace.verdict == "accepted"]
        assert len(accepted) == last.funnel.accepted > 4
        assert len({trace.id for trace in traces}) == len(traces) == last.funnel.generated

        # The trainer dies with a lease: its traces are leased again when that ends.
        trainer = world.trainer()
        until(lambda: bool(client.traces.list(state="leased", limit=1).traces), 120)
        trainer.kill()
        assert client.traces.list(state="leased", limit=1).traces
        world.trainer()
        until(lambda: client.server.funnel().trained == len(accepted), 240)
        books = account_for_traces([client.traces.get(trace.id) for trace in accepted], client.adapters.list().adapters)
        assert books.balanced, books
        assert client.server.funnel().live == len(accepted)

        # Every adapter is live, proved, and answers under its version's name.
        for user in USERS:
            adapter = client.adapters.get(f"user/{user}")
            version = next(v for v in adapter.versions if v.version == adapter.live)
            assert version.parity is not None
            assert version.parity.passed, version.parity
            question = TraceRequest(
                user_id=user, query="A walk?", choices=["yes", "no"], mode="direct", model=adapter.key
            )
            written = client.traces.create(question)
            assert written.provenance.model == f"user/{user}@{adapter.live}"
            assert written.provenance.adapter_digest == version.digest
            assert (
                client.chat.completions.create("A walk?", model=adapter.key, max_tokens=4).version
                == f"user/{user}@{adapter.live}"
            )

        # A dead engine turns the server red and ends it.
        [core] = [pid for pid, title in children(server.pid).items() if "EngineCore" in title]
        os.kill(core, signal.SIGKILL)
        until(lambda: not server.running(), 60)
        assert "the engine died" in "\n".join(server.tail(30))
