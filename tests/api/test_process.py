"""The process: what it refuses to start on, how it ends, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from mindprint_server import access, app, process
from mindprint_server.api.access import is_loopback
from mindprint_server.observability.metrics import Metrics
from mindprint_server.operation import preflight
from mindprint_server.operation.data_lock import DataLock
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services

StartServices = Callable[[Settings], Coroutine[Any, Any, Services]]


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("mindprint: ")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_only_loopback(host: str, settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    assert process.run(settings.model_copy(update={"host": host})) == preflight.REFUSED
    (line,) = said(capfd)
    assert host in line
    assert "loopback" in line
    assert "mindprint keys create --admin" in line
    assert "MINDPRINT_ADMIN_KEY" in line


@pytest.mark.parametrize("kept", ["setting", "store"])
def test_with_a_key_another_address_is_tried(kept: str, settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    changes: dict[str, Any] = {"host": "192.0.2.1"}  # an address for documentation: no machine has it
    if kept == "setting":
        changes["admin_key"] = SecretStr("k" * 32)
    else:
        asyncio.run(access.create_admin_key(settings, "first", None))
    assert process.run(settings.model_copy(update=changes)) == preflight.REFUSED
    (line,) = said(capfd)
    assert "cannot listen on 192.0.2.1" in line


def test_what_loopback_is() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))


def test_a_port_in_use(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert process.run(settings.model_copy(update={"port": port})) == preflight.REFUSED
    (line,) = said(capfd)
    assert f"127.0.0.1:{port}" in line


def test_second_server_on_a_data_folder_says_so_in_one_line(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    lock = DataLock(settings.data_dir / "server.lock", "it")
    try:
        assert process.run(settings) == preflight.FAILED
    finally:
        lock.release()
    (line,) = said(capfd)
    assert f"another server uses the data folder {settings.data_dir}: stop it" in line


def test_a_dead_engine_ends_the_process(
    settings: Settings,
    start_services: StartServices,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    closed = []

    async def thinking_prefix(settings: Settings, *, metrics: Metrics, progress: Callable[[str], None]) -> Services:
        services = await start_services(settings)
        asyncio.get_running_loop().call_later(0.2, services.engine.dead.set)
        return services

    async def closing(services: Services) -> None:
        closed.append(services)
        await services.store.close()

    monkeypatch.setattr(app, "open_services", thinking_prefix)
    monkeypatch.setattr(app, "close_services", closing)
    assert process.run(settings) == preflight.FAILED
    assert said(capfd) == ["mindprint: the engine died"]
    assert len(closed) == 1


def test_a_start_that_fails_ends_the_process(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def thinking_prefix(settings: Settings, *, metrics: Metrics, progress: Callable[[str], None]) -> Services:
        progress("finding the model")
        raise FileNotFoundError("no model at 'x': `mindprint doctor` says how to get one")

    monkeypatch.setattr(app, "open_services", thinking_prefix)
    assert process.run(settings) == preflight.FAILED
    expected = (
        "mindprint: start-up failed while finding the model: no model at 'x': `mindprint doctor` says how to get one"
    )
    assert said(capfd) == [expected]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(number: signal.Signals, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    places = {"MINDPRINT_DATA_DIR": str(tmp_path / "data"), "MINDPRINT_MODEL": str(model)}
    environment = {**os.environ, **places, "MINDPRINT_ENGINE": "fake", "MINDPRINT_PORT": "0", "PYTHONWARNINGS": "error"}
    with subprocess.Popen(
        [sys.executable, "-m", "mindprint_server"], env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            with urllib.request.urlopen(f"{url}/livez", timeout=10) as response:
                assert response.status == 200
            next(line for line in lines if re.search(r"\bready\b", line))
            server.send_signal(number)
            rest = list(lines)
            assert server.wait(timeout=20) == 0, rest
            assert not any("Traceback" in line for line in rest), rest
        finally:
            server.kill()


SLOW = """
import asyncio
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.process import run
from mindprint_server.settings import Settings

async def never(*_, **__):
    await asyncio.Event().wait()

FakeEngine.generate = never
raise SystemExit(run(Settings()))
"""


def test_a_signal_ends_the_streams_with_an_error(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    places = {"MINDPRINT_DATA_DIR": str(tmp_path / "data"), "MINDPRINT_MODEL": str(model), "MINDPRINT_ENGINE": "fake"}
    environment = {**os.environ, **places, "MINDPRINT_PORT": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", SLOW], env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            next(line for line in lines if re.search(r"\bready\b", line))
            item = {"id": "e1", "prompt": "tea?", "response": "tea", "occurred_at": "2026-01-01T00:00:00Z"}
            with httpx.Client(base_url=url, timeout=20) as client:
                client.post("/v1/users/ann/engagements", json={"engagements": [item]}).raise_for_status()
                batch = client.post("/v1/batches", json={}).raise_for_status().json()["id"]
                with client.stream("GET", f"/v1/batches/{batch}/events") as events:
                    told = events.iter_lines()
                    assert next(told).startswith("id: ")
                    assert next(told) == "event: progress"
                    server.send_signal(signal.SIGTERM)
                    rest = list(told)
            assert "event: error" in rest
            assert "server_stopping" in "".join(rest)
            left = list(lines)
            assert server.wait(timeout=20) == 0, left
            assert not any("Traceback" in line for line in left), left
        finally:
            server.kill()


def test_a_second_ctrl_c_ends_it_at_once_without_a_traceback(tmp_path: Path) -> None:
    """uvicorn then skips the end of the lifespan, whose cancelled task logged a traceback."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    places = {"MINDPRINT_DATA_DIR": str(tmp_path / "data"), "MINDPRINT_MODEL": str(model), "MINDPRINT_ENGINE": "fake"}
    settings = {"MINDPRINT_PORT": "0", "MINDPRINT_SHUTDOWN_GRACE_S": "200", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {**os.environ, **places, **settings}
    with subprocess.Popen([sys.executable, "-c", SLOW], env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            url = httpx.URL(next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line))))
            next(line for line in lines if re.search(r"\bready\b", line))
            item = {"id": "e1", "prompt": "tea?", "response": "tea", "occurred_at": "2026-01-01T00:00:00Z"}
            with httpx.Client(base_url=url, timeout=20) as client:
                client.post("/v1/users/ann/engagements", json={"engagements": [item]}).raise_for_status()
                batch = client.post("/v1/batches", json={}).raise_for_status().json()["id"]
                with client.stream("GET", f"/v1/batches/{batch}/events") as events:
                    assert next(events.iter_lines()).startswith("id: ")
                    server.send_signal(signal.SIGINT)
                    with contextlib.suppress(ConnectionError):  # it has closed its socket, and waits for us
                        while True:
                            socket.create_connection((url.host, url.port or 0), timeout=20).close()
                    server.send_signal(signal.SIGINT)
                    left = list(lines)
                    assert server.wait(timeout=20) == 0, left
            assert not any("Traceback" in line for line in left), left
        finally:
            server.kill()
