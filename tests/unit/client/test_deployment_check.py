"""`mindprint doctor --server`: what each answer of a server means, and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from mindprint import __version__, deployment_check
from mindprint.cli import app
from mindprint.deployment_check import CHECKS, Report, check_deployment

KEY = {"id": "k1", "tenant": "default", "name": "ops", "scopes": ["admin"], "created_at": "2026-01-01T00:00:00Z"}
INFO = {
    "mindprint": __version__,
    "engine": "vllm 1",
    "device": "H100",
    "model": "m",
    "model_path": "p",
    "base_digest": "b",
    "prompt_version": "1",
    "max_model_len": 2048,
    "limits": {"max_rank": 16, "target_modules": []},
}
SYSTEM = {
    "host": "127.0.0.1",
    "port": 8300,
    "openapi": False,
    "database": "postgresql",
    "free_bytes": 2**34,
    "min_free_bytes": 2**28,
    "artifacts": "a folder in data_dir",
}
REFUSED = httpx.Response(401, json={"error": {"code": "invalid_api_key"}})
HIDDEN = httpx.Response(404, json={"error": {"code": "not_found"}})
READY: dict[str, Any] = {"status": "ready", "phase": None, "seconds": 1.0, "reasons": {}}
Answers = dict[str, Any]


def serve(anonymous: Answers | None = None, keyed: Answers | None = None, *, ahead_s: float = 0) -> httpx.MockTransport:
    """Returns a server that is as it should be but for these answers."""
    without = {"/livez": {}, "/readyz": READY, "/openapi.json": HIDDEN} | (anonymous or {})
    with_key = {"/v1/info": INFO, "/v1/keys/self": KEY, "/v1/system": SYSTEM} | (keyed or {})

    def answer(request: httpx.Request) -> httpx.Response:
        known = without | with_key if "Authorization" in request.headers else without
        found = known.get(request.url.path, REFUSED)
        if isinstance(found, Exception):
            raise found
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)
        if isinstance(found, httpx.Response):
            return httpx.Response(found.status_code, content=found.content, headers={"Date": date})
        return httpx.Response(200, json=found, headers={"Date": date})

    return httpx.MockTransport(answer)


def states(report: Report) -> dict[str, str]:
    return {result.check: result.state for result in report.results if result.state != "pass"}


def look(url: str = "https://mindprint.example", key: str | None = "k", **options: Any) -> Report:
    return check_deployment(url, key, transport=serve(**options))


def test_a_deployment_that_is_as_it_should_be() -> None:
    report = look()
    assert states(report) == {}
    assert len(report.results) == len(CHECKS)
    assert not report.failed
    assert "k1, scopes admin" in {result.found for result in report.results}


@pytest.mark.parametrize(
    ("url", "anonymous", "keyed", "check", "state", "found"),
    [
        ("http://mindprint.example", {}, {}, "TLS", "fail", "can be read on the way"),
        ("https://mindprint.example", {"/v1/info": INFO}, {}, "keys required", "fail", "answers without a key"),
        ("http://127.0.0.1:8300", {"/v1/info": INFO}, {}, "keys required", "warn", "answers without a key"),
        (
            "https://mindprint.example",
            {"/v1/info": httpx.Response(421, json={})},
            {},
            "keys required",
            "fail",
            "has no keys",
        ),
        ("https://mindprint.example", {}, {"/v1/keys/self": REFUSED}, "key", "fail", "not known, revoked or expired"),
        (
            "https://mindprint.example",
            {},
            {"/v1/system": SYSTEM | {"host": "0.0.0.0"}},
            "listens on",
            "warn",
            "0.0.0.0",
        ),
        ("https://mindprint.example", {"/openapi.json": {}}, {}, "/docs", "warn", "shown to everybody"),
        (
            "https://mindprint.example",
            {"/readyz": READY | {"status": "starting", "phase": "warming up"}},
            {},
            "engine",
            "warn",
            "warming up",
        ),
        ("https://mindprint.example", {"/readyz": READY | {"status": "dead"}}, {}, "engine", "fail", "dead"),
        (
            "https://mindprint.example",
            {"/readyz": READY | {"status": "not_ready", "reasons": {"batches": "it broke"}}},
            {},
            "engine",
            "fail",
            "batches: it broke",
        ),
        (
            "https://mindprint.example",
            {"/readyz": httpx.Response(503, json=READY | {"status": "not_ready", "reasons": {"store": "away"}})},
            {},
            "database",
            "fail",
            "away",
        ),
        (
            "https://mindprint.example",
            {"/readyz": READY | {"status": "not_ready", "reasons": {"disk": "full"}}},
            {},
            "disk",
            "fail",
            "full",
        ),
        ("https://mindprint.example", {}, {"/v1/system": SYSTEM | {"free_bytes": 2**29}}, "disk", "warn", "0.5 GiB"),
        (
            "https://mindprint.example",
            {},
            {"/v1/system": SYSTEM | {"artifacts_problem": "may not write"}},
            "adapter files",
            "fail",
            "may not write",
        ),
        ("https://mindprint.example", {}, {"/v1/info": INFO | {"mindprint": "9.0.0"}}, "version", "fail", "9.0.0"),
        (
            "https://mindprint.example",
            {},
            {"/v1/info": INFO | {"mindprint": f"{__version__}.1"}},
            "version",
            "warn",
            f"{__version__}.1",
        ),
    ],
)
def test_one_thing_that_is_not(
    url: str, anonymous: Answers, keyed: Answers, check: str, state: str, found: str
) -> None:
    report = look(url, anonymous=anonymous, keyed=keyed)
    assert states(report) == {check: state}
    (result,) = (result for result in report.results if result.check == check)
    assert found in result.found
    assert result.advice
    assert report.failed == (state == "fail")


@pytest.mark.parametrize(("ahead_s", "state"), [(0, None), (20, "warn"), (-20, "warn"), (600, "fail"), (-600, "fail")])
def test_clocks_that_differ(ahead_s: float, state: str | None) -> None:
    assert states(look(ahead_s=ahead_s)).get("clock") == state


def test_without_a_key_what_needs_one_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINDPRINT_API_KEY", raising=False)
    report = look(key=None)
    assert states(report) == {"key": "fail", "listens on": "warn", "adapter files": "warn", "version": "warn"}


def test_a_key_without_admin_sees_less() -> None:
    missing = httpx.Response(403, json={"error": {"code": "missing_scope"}})
    report = look(keyed={"/v1/system": missing, "/v1/keys/self": KEY | {"scopes": ["read"]}})
    assert states(report) == {"listens on": "warn", "adapter files": "warn"}
    assert any("403 missing_scope" in result.found for result in report.results)


def test_a_key_that_ends_soon() -> None:
    soon = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    assert states(look(keyed={"/v1/keys/self": KEY | {"expires_at": soon}})) == {"key": "warn"}


@pytest.mark.parametrize("answer", [httpx.ConnectError("refused"), httpx.Response(502, text="bad gateway")])
def test_a_server_that_is_not_reached_is_asked_nothing_else(answer: Any) -> None:
    report = look(anonymous={"/livez": answer})
    assert states(report) == {"reachable": "fail"}
    assert len(report.results) == 1


def test_another_server_at_the_address() -> None:
    page = httpx.Response(200, text="<html>")
    anything = {path: page for path in deployment_check.ROUTES}
    report = look(anonymous=anything, keyed=anything)
    assert report.failed
    assert states(report)["engine"] == "fail"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command against a server made by `serve`."""

    def run(*words: str, **options: Any) -> Any:
        real = httpx.Client

        def client(**given: Any) -> httpx.Client:
            return real(**(given | {"transport": serve(**options)}))

        monkeypatch.setattr(httpx, "Client", client)
        monkeypatch.setenv("MINDPRINT_API_KEY", "k")
        monkeypatch.setenv("COLUMNS", "200")  # so that no cell of the table is wrapped
        return CliRunner().invoke(app, ["doctor", *words])

    return run


def test_the_command_prints_a_table_and_ends_with_0_or_1(command: Callable[..., Any]) -> None:
    fine = command("--server", "https://mindprint.example")
    assert fine.exit_code == 0
    assert "reachable" in fine.stdout
    assert fine.stdout.split()[:3] == ["check", "state", "found"]
    failed = command("--server", "http://mindprint.example")
    assert failed.exit_code == 1
    assert "put a proxy with TLS in front" in failed.stdout


def test_the_command_prints_json(command: Callable[..., Any]) -> None:
    printed = command("--server", "http://mindprint.example", "--json")
    assert printed.exit_code == 1
    results = {result["check"]: result for result in json.loads(printed.stdout)["results"]}
    assert results["TLS"]["state"] == "fail"
    assert results["key"] == {"check": "key", "state": "pass", "found": "k1, scopes admin", "advice": None}
    assert command("--json").exit_code == 2
