"""The server about itself: metrics, info, funnel, request ids, the access log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr, ValidationError
from structlog.testing import capture_logs

from mindprint.types import Funnel, ServerInfo, SystemInfo, Trace
from mindprint_server import app as app_module
from mindprint_server.api import middleware
from mindprint_server.app import ServerState
from mindprint_server.observability import logging as server_logging
from mindprint_server.observability.metrics import Metrics
from mindprint_server.operation.system import describe_artifacts
from mindprint_server.settings import Settings
from mindprint_server.store import StoreBusy
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def test_info_and_funnel(ann: str, client: httpx.AsyncClient) -> None:
    ServerInfo.model_validate((await client.get("/v1/info")).json())
    for path in ("/v1/funnel", "/v1/funnel?user=ann"):
        Funnel.model_validate((await client.get(path)).json())


async def test_metrics_are_what_prometheus_reads(
    ann: str, client: httpx.AsyncClient, services: Services, traces: Callable[..., Trace]
) -> None:
    await services.store.traces.add(traces(engagement_id="e0"))
    await services.store.traces.add(traces(engagement_id="e1", state="dead_letter"))
    await client.post("/v1/batches", json={})
    await client.get("/v1/users/ann")
    await client.get("/v1/users/ben")
    await client.request("BREW", "/teapot/ann")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    queue = {
        state: samples["mindprint_queue_traces", ("state", state), ("tenant", "default")]
        for state in ("waiting", "leased", "dead_letter")
    }
    assert queue == {"waiting": 1, "leased": 0, "dead_letter": 1}
    assert samples["mindprint_open_batches", ("tenant", "default")] == 1
    assert samples["mindprint_refusals_total", ("code", "user_not_found"), ("tenant", "default")] == 1
    route, mine = ("route", "/v1/users/{user_id}"), ("tenant", "default")
    assert samples["mindprint_requests_total", ("method", "GET"), route, ("status", "200"), mine] == 1
    assert samples["mindprint_requests_total", ("method", "GET"), route, ("status", "404"), mine] == 1
    assert samples["mindprint_request_seconds_count", ("method", "GET"), route] == 2
    unmatched = ("method", "OTHER"), ("route", "unmatched"), ("status", "404"), ("tenant", "")
    assert samples["mindprint_requests_total", *unmatched] == 1
    assert "ann" not in response.text, "no label grows with the users"


@pytest.mark.parametrize("given", ["abc-1.2_3", None, "a b", "x" * 65, "bad\tid"])
async def test_request_ids(given: str | None, client: httpx.AsyncClient) -> None:
    response = await client.get("/livez", headers={} if given is None else {"x-request-id": given})
    answered = response.headers["x-request-id"]
    assert middleware.REQUEST_ID.fullmatch(answered)
    assert (answered == given) == (given == "abc-1.2_3")


async def test_a_fault_is_logged_once_with_its_request(
    client: httpx.AsyncClient, services: Services, error_of: ErrorOf
) -> None:
    services.traces.next = RuntimeError("secret detail")  # type: ignore[attr-defined]
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        body = {"user_id": "ann", "query": "tea?"}
        response = await client.post("/v1/traces", json=body, headers={"x-request-id": "r1"})
    assert error_of(response)["code"] == "internal_error"
    assert [(line["event"], line["request_id"]) for line in lines] == [("request failed", "r1"), ("request", "r1")]
    assert lines[1]["status"] == 500


async def test_a_fault_in_a_stream_breaks_the_connection(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(**_: Any) -> list[Trace]:
        raise OSError("the disk is gone")

    monkeypatch.setattr(services.store.traces, "find", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        await client.get("/v1/traces/export")


async def test_logs_are_json_lines_with_request_ids(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    server_logging.configure(settings.model_copy(update={"log_json": True}))
    await client.get("/v1/users", headers={"x-request-id": "r1"})
    await client.get("/livez")
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").error("port %d", 80)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("request", "info"), ("port 80", "error")]
    assert {"request_id": "r1", "method": "GET", "path": "/v1/users", "status": 200}.items() <= lines[0].items()


async def test_what_a_waiting_trainer_repeats_is_no_info_line(
    client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute of an idle trainer wrote 30 lines and more."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    server_logging.configure(settings.model_copy(update={"log_json": True}))
    assert (await client.post("/v1/leases", json={"owner": "t", "max_traces": 9})).status_code == 204
    assert (await client.get("/v1/publications/unknown")).status_code == 404
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [("/v1/publications/unknown", 404)]


def test_faults_are_written_for_people_and_for_machines(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for as_json in (False, True):
        written = io.StringIO()
        monkeypatch.setattr("sys.stderr", written)
        server_logging.configure(settings.model_copy(update={"log_json": as_json}))
        try:
            raise ValueError("odd")
        except ValueError:
            structlog.get_logger("x").exception("failed")
        assert "odd" in written.getvalue()
        assert (written.getvalue().count("\n") == 1) == as_json


@pytest.mark.parametrize("as_json", [False, True])
def test_locals_of_a_fault_are_not_logged(as_json: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    server_logging.configure(settings.model_copy(update={"log_json": as_json}))

    def connect(url: str) -> None:
        raise ValueError("odd")

    try:
        connect("postgres://ann:" + "mieheg"[::-1] + "@db/mind")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert "odd" in written.getvalue()
    assert "geheim" not in written.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
async def test_key_that_was_sent_as_an_id_is_not_logged(
    as_json: bool, client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await client.post("/v1/keys", json={"name": "root", "scopes": ["admin"]})).json()
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    server_logging.configure(settings.model_copy(update={"log_json": as_json}))
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert (await client.delete(f"/v1/keys/{made['key']}", headers=headers)).status_code == 404
    try:
        raise ValueError(f"odd: {made['key']}")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    assert written.getvalue().count(f"mp_{made['id']}_...") >= 2
    assert made["key"].rpartition("_")[2] not in written.getvalue()


async def test_password_of_the_database_is_in_no_line_of_a_failed_start(
    settings: Settings, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    url = SecretStr(f"postgres://ann:geheim@127.0.0.1:{unused_tcp_port}/mind?sslpassword=geheim")
    settings = settings.model_copy(
        update={"log_json": True, "log_level": "debug", "database_url": url, "database_wait_s": 0}
    )
    server_logging.configure(settings)
    state = ServerState(settings, Metrics())
    state.open()
    async with asyncio.timeout(20):
        await state.failed.wait()
    await state.close()
    assert "cannot open the database postgresql+asyncpg://ann:***@127.0.0.1" in str(state.failure)
    assert "geheim" not in written.getvalue() + str(state.failure)


class Told:
    """A logger; `seen` has an event for each of the two messages."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.seen = {"still starting": asyncio.Event(), "ready": asyncio.Event()}

    def info(self, message: str, **fields: object) -> None:
        self.lines.append((message, fields))
        if message in self.seen:
            self.seen[message].set()


async def test_start_that_takes_long_is_logged_again_until_it_ends(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()

    async def opened_late(*_: object, progress: Callable[[str], None], **__: object) -> Services:
        progress("loading weights")
        await told.seen["still starting"].wait()
        return services

    monkeypatch.setattr(app_module, "open_services", opened_late)
    monkeypatch.setattr(app_module, "START_LOG_EVERY_S", 0.001)
    monkeypatch.setattr(app_module, "log", told)
    state = ServerState(services.settings, Metrics())
    state.open()
    async with asyncio.timeout(20):
        await told.seen["ready"].wait()
    until_ready = len(told.lines)
    await asyncio.sleep(0.05)
    assert ("starting", {"phase": "loading weights"}) in told.lines
    assert told.lines[1][0] == "still starting"
    assert told.lines[1][1]["phase"] == "loading weights"
    assert len(told.lines) == until_ready
    state._owned = False
    await state.close()


def test_misspelt_setting_does_not_show_its_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"database_ur": "postgres://ann:geheim@db/mind"})
    assert "geheim" not in str(caught.value)


async def test_metrics_are_shown_while_the_store_is_away(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> dict[str, int]:
        raise StoreBusy("the connection was lost")

    monkeypatch.setattr(services.store.traces, "count_waiting", away)
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert "mindprint_requests_total" in response.text


async def test_an_admin_sees_where_the_server_listens_and_what_it_stores_in(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    seen = SystemInfo.model_validate((await client.get("/v1/system")).json())
    assert (seen.host, seen.port, seen.database) == ("127.0.0.1", settings.port, "sqlite")
    assert seen.free_bytes > 0
    assert seen.artifacts_problem is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, "a folder in data_dir"),
        ("/mnt/shared", "a folder"),
        ("file:///mnt/shared", "a folder"),
        ("s3://key:secret@bucket/x", "s3://..."),
    ],
)
def test_the_kind_of_an_artifact_store_is_shown_without_its_address(url: str | None, shown: str) -> None:
    assert describe_artifacts(url) == shown


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/health", "/version", "/", "/metrics", "/v1/models", "/v1/models/base"]
)
async def test_monitors_may_ask_with_head(client: httpx.AsyncClient, services: Services, path: str) -> None:
    asked, whole = await client.head(path), await client.get(path)
    assert (asked.status_code, asked.content) == (whole.status_code, b"") == (200, b"")
    assert asked.headers["content-type"] == whole.headers["content-type"] if whole.content else True
    route = "/v1/models/{model:path}" if path == "/v1/models/base" else path
    labels = {"route": route, "method": "HEAD", "status": "200"}
    found = [
        sample.value
        for metric in services.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "mindprint_requests_total" and labels.items() <= sample.labels.items()
    ]
    assert found == [1]


async def test_head_is_not_answered_elsewhere(client: httpx.AsyncClient) -> None:
    assert (await client.head("/v1/users")).status_code == 405
