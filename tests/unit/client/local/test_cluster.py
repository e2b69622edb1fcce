from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from mindprint.local.cluster import LocalCluster
from mindprint.local.console import Output
from mindprint.local.processes import Child, ProcessFailed


class Started:
    """What a cluster starts, and the stand-in that is run for it."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.calls: list[tuple[str, list[str], Mapping[str, str]]] = []
        self.instead: list[str] = []
        self._start = cluster.processes.start

    def __call__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        self.calls.append((name, list(command), environment))
        return self._start(name, self.instead, {})


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path, output=Output(Console(file=io.StringIO())), grace_s=0.3) as cluster:
        yield cluster


@pytest.fixture
def started(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started(cluster)
    monkeypatch.setattr(cluster.processes, "start", started)
    return started


async def test_start_server_waits_until_it_is_ready(cluster: LocalCluster, started: Started, tmp_path: Path) -> None:
    (tmp_path / "readyz").touch()
    host, port = cluster.url.removeprefix("http://").split(":")
    started.instead = ["http.server", port, "--bind", host, "--directory", str(tmp_path)]
    server = await cluster.start_server(tmp_path / "model", {"GATE": "false"}, timeout_s=30)
    assert server.running()
    [(name, command, environment)] = started.calls
    assert (name, command) == ("server", ["mindprint", "serve"])
    assert environment == {
        "MINDPRINT_HOST": host,
        "MINDPRINT_PORT": port,
        "MINDPRINT_DATA_DIR": str(tmp_path / "server"),
        "MINDPRINT_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'server' / 'mindprint.db'}",
        "MINDPRINT_MODEL": str(tmp_path / "model"),
        "MINDPRINT_GATE": "false",
    }


async def test_start_server_when_it_ends_raises_with_its_log(cluster: LocalCluster, started: Started) -> None:
    started.instead = ["json.tool", "no such file"]
    with pytest.raises(ProcessFailed, match=r"the server ended with code 2 \(log: .*server\.log\)"):
        await cluster.start_server(Path("model"), timeout_s=30)


async def test_start_server_when_it_is_never_ready_raises_after_the_timeout(
    cluster: LocalCluster, started: Started, tmp_path: Path
) -> None:
    host, port = cluster.url.removeprefix("http://").split(":")
    started.instead = ["http.server", port, "--bind", host, "--directory", str(tmp_path)]
    with pytest.raises(ProcessFailed, match=r"the server was not ready after 1 s: see .*server\.log"):
        await cluster.start_server(Path("model"), timeout_s=1)


async def test_start_trainer_gets_its_server_and_a_folder_and_stops(
    cluster: LocalCluster, started: Started, tmp_path: Path
) -> None:
    started.instead = ["http.server", "0", "--bind", "127.0.0.1"]
    trainer = cluster.start_trainer("trainer-1", {"EPOCHS": "2"}, ["--once"])
    assert started.calls == [
        (
            "trainer-1",
            ["mindprint", "train", "--once"],
            {
                "MINDPRINT_TRAIN_SERVER": cluster.url,
                "MINDPRINT_TRAIN_WORK_DIR": str(tmp_path / "trainer-1"),
                "MINDPRINT_TRAIN_EPOCHS": "2",
            },
        )
    ]
    began = time.monotonic()
    await cluster.stop(trainer, timeout_s=10)
    assert not trainer.running()
    assert time.monotonic() - began < 9, "SIGTERM was enough"
