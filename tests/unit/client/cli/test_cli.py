"""The command as its user meets it: help, and one line for every failure."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from cli_lines import one_line
from mindprint.valid_ids import user_name

COMMANDS = [
    (),
    ("serve",),
    ("train",),
    ("demo",),
    ("demo-data",),
    ("doctor",),
    ("backup",),
    ("restore",),
    ("chat",),
    *(("users", name) for name in ("", "list", "show", "import", "profile", "auto-mode")),
    *(("traces", name) for name in ("", "list", "show", "write", "requeue", "export", "import")),
    *(("batches", name) for name in ("", "start", "list", "show", "watch", "cancel", "results")),
    *(("adapters", name) for name in ("", "list", "show", "why", "promote", "rollback")),
    *(("adapters", name) for name in ("canary", "pin", "unpin", "export")),
    *(("cohorts", name) for name in ("", "list", "show", "put", "add", "remove", "delete")),
    *(("audit", name) for name in ("", "list")),
    *(("keys", name) for name in ("", "create", "list", "rotate", "revoke")),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help(run: Any, words: tuple[str, ...]) -> None:
    result = run(*filter(None, words), "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    assert result.stderr == ""


def test_the_version(run: Any) -> None:
    assert run("--version").stdout == "mindprint 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("users", "list", "--nope"), "No such option: --nope: see `mindprint users list --help`"),
        (("users", "show"), "Missing argument 'USER': see `mindprint users show --help`"),
        (("nope",), "No such command 'nope'"),
        (("traces", "list", "--verdict", "good"), "'good' is not one of 'accepted', 'rejected', 'unjudged'"),
        (("batches", "start", "--candidates", "100"), "candidates: Input should be less than or equal to 64"),
        (("batches", "start", "--unhinted", "0", "--no-hints"), "unhinted=0 shows the writer the answer"),
        (("traces", "write", "-u", "ann"), "send either engagement_id or query"),
        (("adapters", "promote", "user/ann"), "name either a version or --base"),
        (("adapters", "promote", "user/ann", "2", "--base"), "name either a version or --base"),
        (("adapters", "why", "user/ann"), "'user/ann' names no version: write it like user/anna@7"),
        (("adapters", "pin", "user/ann@0"), "'user/ann@0' names no version"),
        (("adapters", "canary", "user/ann"), "'user/ann' names no version"),
        (("adapters", "canary", "user/ann@2", "--stop"), "--stop takes the adapter without a version: user/ann"),
        (("adapters", "canary", "user/ann@2", "--share", "1"), "share: Input should be less than 1"),
        (("cohorts", "add", "tea"), "Missing argument 'USER...'"),
        (("keys", "create", "app"), "name what the key may do: --scope with one of infer, ingest, train, read, admin"),
        (("keys", "create", "app", "-s", "root"), "there is no scope 'root': use infer, ingest, train, read, admin"),
        (("keys", "create", "app", "-s", "read", "--set", "port=1"), "use them with --admin"),
        (("keys", "create", "--admin", "-s", "read"), "leave out --scope, or --admin"),
        (("traces", "show"), "name either TRACE, or both --user and --engagement"),
        (("traces", "show", "--user", "ann"), "name either TRACE, or both --user and --engagement"),
        (("traces", "show", "t1", "-u", "ann", "-e", "e1"), "name either TRACE, or both --user and --engagement"),
        (
            ("--url", "http://x", "users", "list"),
            "after the command, as in `mindprint users list --url URL`, or set MIN",
        ),
        (("import", "x.csv"), "No such command 'import': histories come in with `mindprint users import`"),
        (("users", "erase", "vera@corp.example"), f"an import calls this user '{user_name('vera@corp.example')}'"),
        (("users", "import", "nowhere.ndjson"), "path 'nowhere.ndjson' does not exist"),
        (("traces", "import", "ann", "nowhere.ndjson"), "file 'nowhere.ndjson' does not exist"),
    ],
)
def test_wrong_use(run: Any, words: tuple[str, ...], line: str) -> None:
    assert line in one_line(run(*words), code=2)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            httpx.ConnectError("refused"),
            "no server answers at http://127.0.0.1:8300 (refused): start one with `mindprint serve`",
        ),
        (httpx.Response(200, text="<html>"), "is this a Mindprint server of this version?"),
        (
            httpx.Response(
                404, json={"error": {"message": "no\nuser: send some", "type": "t", "code": "user_not_found"}}
            ),
            "no user: send some (404 user_not_found)",
        ),
        (httpx.Response(500, text="oh"), "is this a Mindprint server? (500 unknown)"),
    ],
)
def test_failures_of_the_server(run: Any, server: Any, answer: Any, line: str) -> None:
    server.answers_with(answer)
    assert line in one_line(run("users", "show", "ann"))


def test_a_wrong_address(run: Any) -> None:
    assert one_line(run("users", "list", "--url", "nowhere")).startswith("'nowhere' is no server address")


def test_a_bug_of_ours_is_one_line_too(run: Any, monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    def bug(_: httpx.Request) -> httpx.Response:
        raise KeyError("x")

    server.answers_with(bug)
    assert one_line(run("users", "list")) == "unexpected KeyError: 'x' (MINDPRINT_DEBUG=1 shows where)"
    monkeypatch.setenv("MINDPRINT_DEBUG", "1")
    assert isinstance(run("users", "list").exception, KeyError)


def test_waiting_for_the_server_is_said(run: Any, server: Any, samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import stamina

    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    busy = {"error": {"message": "the engine is starting", "type": "server_error", "code": "not_ready"}}
    server.answers_with(
        httpx.Response(503, headers={"Retry-After": "2"}, json=busy), httpx.Response(200, json=samples.user())
    )
    with stamina.set_testing(False):
        result = run("users", "show", "ann", "--json")
    assert json.loads(result.stdout)["id"] == "ann"
    assert result.stderr == "the engine is starting (503 not_ready): trying again in 2 s\n"


def test_a_command_waits_for_a_server_that_starts(
    run: Any, server: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stamina

    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    starting = {"error": {"message": "the engine is starting", "type": "server_error", "code": "engine_starting"}}
    busy = httpx.Response(503, headers={"Retry-After": "2"}, json=starting)
    server.answers_with(*[busy] * 8, httpx.Response(200, json=samples.user()))
    with stamina.set_testing(False):
        result = run("users", "show", "ann", "--json")
    assert json.loads(result.stdout)["id"] == "ann"
    assert len(waits) == 8
    assert result.stderr == "the server is starting: waiting up to 600 s\n"
