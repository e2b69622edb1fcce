"""Metrics on a port of their own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from mindprint_server import process
from mindprint_server.access import AccessControl
from mindprint_server.api.metrics_port import MetricsPort
from mindprint_server.app import create_app
from mindprint_server.operation import preflight
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
MAIN, METRICS = "http://127.0.0.1:8300", "http://127.0.0.1:8301"


@pytest.fixture
def both(settings: Settings, services: Services) -> Callable[[str], httpx.AsyncClient]:
    """Makes a client of one of the two ports of a server with a key."""
    settings = settings.model_copy(update={"metrics_port": 8301, "admin_key": SecretStr("k" * 32)})
    services.access = AccessControl(settings, services.store)
    app = MetricsPort(create_app(settings, services=services), 8301)
    return lambda url: httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url)


async def test_the_port_shows_metrics_without_a_key_and_nothing_else(
    both: Callable[[str], httpx.AsyncClient], error_of: ErrorOf
) -> None:
    async with both(METRICS) as client:
        shown = await client.get("/metrics")
        assert (shown.status_code, "mindprint_queue_traces" in shown.text) == (200, True)
        for path in ("/", "/v1/users", "/readyz", "/docs", "/metrics/", "/v1/keys"):
            refused = await client.get(path, headers={"Authorization": f"Bearer {'k' * 32}"})
            assert (refused.status_code, error_of(refused)["code"]) == (404, "not_found")
        assert (await client.post("/metrics")).status_code == 405


async def test_the_main_port_has_no_metrics_then(both: Callable[[str], httpx.AsyncClient], error_of: ErrorOf) -> None:
    async with both(MAIN) as client:
        assert (await client.get("/metrics")).status_code == 401
        key = {"Authorization": f"Bearer {'k' * 32}"}
        refused = await client.get("/metrics", headers=key)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "metrics_elsewhere")
        assert (await client.get("/v1/users", headers=key)).status_code == 200


async def test_a_page_cannot_read_the_metrics_of_loopback(both: Callable[[str], httpx.AsyncClient]) -> None:
    async with both(METRICS) as client:
        assert (await client.get("/metrics", headers={"Host": "evil.example"})).status_code == 421
        assert (await client.get("/metrics", headers={"Origin": "https://evil.example"})).status_code == 403


def test_two_services_on_one_port_are_refused() -> None:
    with pytest.raises(ValueError, match="metrics_port is the same as port"):
        Settings(port=8300, metrics_port=8300)
    assert Settings(port=0, metrics_port=0).metrics_host == "127.0.0.1"


def test_a_port_of_metrics_in_use(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert process.run(settings.model_copy(update={"metrics_port": port})) == preflight.REFUSED
    assert f"cannot listen on 127.0.0.1:{port}" in capfd.readouterr().err


def test_a_process_serves_both_ports_and_ends_with_a_signal(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    settings = {"DATA_DIR": str(tmp_path / "data"), "MODEL": str(model), "ENGINE": "fake", "PORT": "0"}
    settings["METRICS_PORT"] = "0"
    environment = {**os.environ, **{f"MINDPRINT_{name}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "mindprint_server"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            main, metrics = (
                next(found[0] for line in lines if event in line and (found := re.search(r"http://[0-9.:]+", line)))
                for event in ("listening", "metrics")
            )
            next(line for line in lines if re.search(r"\bready\b", line))
            with httpx.Client(trust_env=False, timeout=20) as client:
                assert client.get(f"{main}/readyz").status_code == 200
                assert client.get(f"{main}/metrics").status_code == 404
                assert "mindprint_open_batches" in client.get(f"{metrics}/metrics").text
                assert client.get(f"{metrics}/readyz").status_code == 404
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
            assert server.wait(timeout=20) == 0, rest
        finally:
            server.kill()
