"""The command as its user meets it: tables, JSON, and one line for every failure."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

COMMANDS = [
    (),
    ("serve",),
    ("train",),
    ("demo",),
    ("demo-data",),
    ("doctor",),
    ("chat",),
    *(("users", name) for name in ("", "list", "show", "import", "profile", "auto-mode")),
    *(("traces", name) for name in ("", "list", "show", "write", "requeue", "export", "import")),
    *(("batches", name) for name in ("", "start", "list", "show", "watch", "cancel", "results")),
    *(("adapters", name) for name in ("", "list", "show", "why", "promote", "rollback")),
    *(("adapters", name) for name in ("canary", "pin", "unpin", "export")),
    *(("cohorts", name) for name in ("", "list", "show", "put", "add", "remove", "delete")),
    *(("keys", name) for name in ("", "create", "list", "rotate", "revoke")),
]


def one_line(result: Any, code: int = 1) -> str:
    """The line of a failure, and nothing else on stderr."""
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    return str(result.stderr).removeprefix("error: ").strip()


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
        (httpx.Response(500, text="oh"), "oh (500 unknown)"),
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


def test_lists_as_tables(run: Any, server: Any, samples: Any) -> None:
    server.routes(
        GET_v1_users={"users": [samples.user(live_version=2)], "next": "ann"},
        GET_v1_traces={"traces": [samples.trace(thinking="a\x1b[31m[bold]b\n" * 40, reason="loop")], "next": None},
        GET_v1_batches={"batches": [samples.batch()]},
        GET_v1_adapters={"adapters": [samples.adapter()]},
    )
    users = run("users", "list")
    header, _, row = users.stdout.strip().splitlines()
    assert header.split() == ["user", "engagements", "cohort", "profile", "live", "version", "since"]
    assert row.split()[:5] == ["ann", "3", "everyone", "-", "2"]
    assert users.stderr == "more: mindprint users list --after ann\n"
    traces = run("traces", "list").stdout
    assert "loop" in traces
    assert "[bold]b" in traces, "markup of users is text"
    assert "\x1b" not in traces
    assert len(traces.strip().splitlines()) == 3
    assert "1/4" in run("batches", "list").stdout
    assert "user/ann" in run("adapters", "list").stdout


@pytest.mark.parametrize(
    ("noun", "line"),
    [
        ("users", "no users yet: `mindprint users import FILE` brings some"),
        ("traces", "no such traces: `mindprint batches start` writes some"),
        ("batches", "no batches yet: `mindprint batches start` begins one"),
        ("adapters", "no adapters yet: `mindprint train` makes them from accepted traces"),
        ("cohorts", "no cohorts: `mindprint cohorts put COHORT` makes one"),
        ("keys", "no keys: `mindprint keys create --admin` makes the first one"),
    ],
)
def test_empty_lists_say_what_to_do(run: Any, server: Any, noun: str, line: str) -> None:
    server.answers_with(httpx.Response(200, json={noun: []}))
    assert run(noun, "list").stdout.strip() == line


@pytest.mark.parametrize(
    ("words", "path", "reply"),
    [
        (("users", "show", "ann"), "GET_v1_users_ann", "user"),
        (("users", "auto-mode", "ann"), "GET_v1_users_ann_auto-mode", "routes"),
        (("traces", "show", "t1"), "GET_v1_traces_t1", "trace"),
        (("traces", "write", "-u", "ann", "-q", "Tea?"), "POST_v1_traces", "trace"),
        (("batches", "start"), "POST_v1_batches", "batch"),
        (("batches", "show", "b1"), "GET_v1_batches_b1", "batch"),
        (("batches", "cancel", "b1"), "POST_v1_batches_b1_cancel", "batch"),
        (("adapters", "show", "user/ann"), "GET_v1_adapters_user_ann", "adapter"),
        (("adapters", "promote", "user/ann", "1"), "POST_v1_adapters_user_ann_promote", "adapter"),
        (("adapters", "rollback", "user/ann"), "POST_v1_adapters_user_ann_rollback", "adapter"),
        (("adapters", "why", "user/ann@1"), "GET_v1_adapters_user_ann_versions_1_lineage", "lineage"),
        (("adapters", "pin", "user/ann@1"), "POST_v1_adapters_user_ann_versions_1_pin", "version"),
        (("adapters", "canary", "user/ann@1"), "PUT_v1_adapters_user_ann_canary", "adapter"),
        (("cohorts", "show", "tea"), "GET_v1_cohorts_tea", "cohort"),
        (("cohorts", "put", "tea"), "PUT_v1_cohorts_tea", "cohort"),
        (("cohorts", "add", "tea", "ann"), "POST_v1_cohorts_tea_users", "cohort"),
        (("cohorts", "remove", "tea", "ann"), "DELETE_v1_cohorts_tea_users_ann", "cohort"),
        (("keys", "create", "app", "-s", "infer"), "POST_v1_keys", "created_key"),
        (("keys", "rotate", "k1"), "POST_v1_keys_k1_rotate", "created_key"),
        (("keys", "revoke", "k1"), "DELETE_v1_keys_k1", "api_key"),
        (("chat", "Tea?"), "POST_v1_chat_completions", "chat"),
    ],
)
def test_json_of_one_thing(run: Any, server: Any, samples: Any, words: Any, path: str, reply: str) -> None:
    sent = getattr(samples, reply)()
    server.routes(**{path: sent})
    printed = json.loads(run(*words, "--json").stdout)
    assert printed.keys() >= sent.keys()
    assert printed.get("id") == sent.get("id")


@pytest.mark.parametrize("noun", ["users", "traces", "batches", "adapters", "cohorts", "keys"])
def test_json_of_lists(run: Any, server: Any, noun: str) -> None:
    server.answers_with(httpx.Response(200, json={noun: []}))
    assert json.loads(run(noun, "list", "--json").stdout)[noun] == []


def test_one_thing_for_people(run: Any, server: Any, samples: Any) -> None:
    server.routes(
        GET_v1_users_ann=samples.user(),
        GET_v1_funnel={"generated": 6, "accepted": 2},
        GET_v1_traces_t1=samples.trace(choice_logprobs={"coffee": -2.0, "tea": -0.1}, scores={"gain": 0.5}),
        GET_v1_batches_b1=samples.batch("failed", error="the engine died"),
        GET_v1_adapters_user_ann=samples.adapter(),
    )
    assert "6 generated, 2 accepted, 0 trained" in run("users", "show", "ann").stdout
    trace = run("traces", "show", "t1").stdout
    assert "gain 0.500" in trace
    assert trace.index("-0.100  tea") < trace.index("-2.000  coffee")
    batch = run("batches", "show", "b1").stdout
    assert "the engine died" in batch
    assert "rejected: loop" in batch
    assert "passed" in run("adapters", "show", "user/ann").stdout


def test_what_auto_does_for_a_user_and_why(run: Any, server: Any, samples: Any) -> None:
    server.routes(**{"GET_v1_users_ann_auto-mode": samples.routes()})
    told = run("users", "auto-mode", "ann").stdout
    assert "answered by  user/ann@2" in told
    rows = [line.strip().split(maxsplit=5) for line in told.strip().splitlines()[-2:]]
    assert rows[0] == ["closed", "40", "+0.125", "+0.050", "personal", "thinking pays"]
    assert rows[1] == ["open", "0", "-", "-", "direct", "open questions whose gain is known: 0, wanted: 16"]


def test_auto_can_be_asked_for_and_says_what_it_took(run: Any, server: Any, samples: Any) -> None:
    made = {**samples.trace()["provenance"], "mode": "direct", "mode_reason": "no user is asked about"}
    server.routes(POST_v1_traces=samples.trace(mode="direct", provenance=made), POST_v1_chat_completions=samples.chat())
    told = run("traces", "write", "-u", "ann", "-q", "Tea?", "--mode", "auto").stdout
    assert "mode direct" in told
    assert "no user is asked about" in told
    run("chat", "Tea?", "--mode", "auto", "--json")
    assert [json.loads(request.content)["mode"] for request in server.asked] == ["auto", "auto"]


def test_filters_are_passed_on(run: Any, server: Any) -> None:
    server.answers_with(httpx.Response(200, json={"traces": []}))
    run("traces", "list", "--user", "ann", "--batch", "b1", "--verdict", "rejected", "--state", "stored", "-n", "5")
    run("traces", "list", "-u", "ann", "-e", "e7", "--mode", "generic")
    assert dict(server.asked[0].url.params) == {
        "user": "ann",
        "batch": "b1",
        "verdict": "rejected",
        "state": "stored",
        "limit": "5",
    }
    assert dict(server.asked[1].url.params) == {"user": "ann", "engagement": "e7", "mode": "generic", "limit": "20"}


def test_writing_a_profile(run: Any, server: Any) -> None:
    profile = {
        "user_id": "ann",
        "version": 2,
        "text": "Ann likes tea.",
        "tokens": 5,
        "covers": 3,
        "covers_until": "2026-01-01T12:00:00Z",
        "prompt_version": "1",
        "base_digest": "b",
        "created_at": "2026-01-01T12:00:00Z",
    }
    server.routes(POST_v1_users_ann_profile=profile)
    assert "Ann likes tea." in run("users", "profile", "ann", "--write").stdout


def test_export_to_stdout_and_to_a_file(run: Any, server: Any, samples: Any, tmp_path: Path) -> None:
    lines = "".join(f"{json.dumps(samples.trace(id=f't{n}'))}\n" for n in range(3))
    server.answers_with(httpx.Response(200, text=lines))
    printed = run("batches", "results", "b1").stdout.splitlines()
    assert [json.loads(line)["id"] for line in printed] == ["t0", "t1", "t2"]
    file = tmp_path / "out.ndjson"
    assert run("traces", "export", "--out", str(file)).stdout == f"3 traces written to {file}\n"
    assert file.read_text().splitlines() == printed


def test_an_export_that_fails_leaves_the_old_file(
    run: Any, server: Any, samples: Any, body: Any, tmp_path: Path
) -> None:
    file = tmp_path / "out.ndjson"
    file.write_text("old")
    line = f"{json.dumps(samples.trace())}\n".encode()
    server.answers_with(httpx.Response(200, stream=body(line, httpx.ReadError("reset"))))
    assert "broke" in one_line(run("traces", "export", "--out", str(file)))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    assert "No such file" in one_line(run("traces", "export", "--out", str(tmp_path / "no" / "where")))


def test_chat_streams_thinking_and_answer(run: Any, server: Any, samples: Any) -> None:
    data = samples.chat_chunks(
        ("reasoning_content", "Ann likes "), ("reasoning_content", "tea."), ("content", "te\x07a")
    )
    server.answers_with(httpx.Response(200, content=data))
    result = run("chat", "-m", "user/ann", "--mode", "personal", "Tea?")
    assert result.stdout == "Ann likes tea.\n\nte\N{REPLACEMENT CHARACTER}a\n"
    sent = json.loads(server.asked[0].content)
    assert (sent["model"], sent["mode"]) == ("user/ann", "personal")


def test_chat_reads_a_question_from_stdin(run: Any, server: Any, samples: Any) -> None:
    server.answers_with(httpx.Response(200, content=samples.chat_chunks(("content", "tea"))))
    assert run("chat", stdin="Tea or\ncoffee?\n").stdout == "tea\n"
    assert json.loads(server.asked[0].content)["messages"][0]["content"] == "Tea or\ncoffee?"
    assert "there is no question" in one_line(run("chat", stdin=" \n"), code=2)


def test_a_conversation_keeps_what_was_said(
    run: Any, server: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = iter(["Tea?", "", "Sure?"])

    def ask(_: str) -> str:
        for question in questions:
            return question
        raise EOFError

    monkeypatch.setattr("mindprint.cli.chat.at_terminal", lambda: True)
    monkeypatch.setattr("builtins.input", ask)
    server.answers_with(httpx.Response(200, content=samples.chat_chunks(("content", "tea"))))
    result = run("chat")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("tea") == 2
    assert [message["content"] for message in json.loads(server.asked[1].content)["messages"]] == [
        "Tea?",
        "tea",
        "Sure?",
    ]


def test_a_new_key_is_shown_once(run: Any, server: Any, samples: Any) -> None:
    server.answers_with(httpx.Response(201, json=samples.created_key(expires_at="2026-02-01T12:00:00Z")))
    result = run("keys", "create", "app", "-s", "infer", "-s", "read", "--days", "31")
    assert "mp_k1_secret" in result.stdout
    assert "cannot be shown again" in result.stderr
    assert json.loads(server.asked[0].content) == {
        "name": "app",
        "scopes": ["infer", "read"],
        "expires_in_s": 31 * 86_400,
    }


def test_the_first_admin_key_is_made_in_the_database(run: Any, tmp_path: Path) -> None:
    made = json.loads(run("keys", "create", "--admin", "--set", f"data_dir={tmp_path}", "--json").stdout)
    assert (made["name"], made["scopes"]) == ("admin", ["admin"])
    assert made["key"].startswith(f"mp_{made['id']}_")
    with closing(sqlite3.connect(tmp_path / "mindprint.db")) as db:
        assert db.execute("SELECT id FROM api_keys").fetchall() == [(made["id"],)]


def test_an_admin_key_needs_a_database(run: Any) -> None:
    result = run("keys", "create", "--admin", "--set", "database_url=sqlite+aiosqlite:///:memory:")
    assert "SQLite needs a file" in one_line(result)


def test_dead_letters_are_put_back(run: Any, server: Any) -> None:
    server.answers_with(lambda request: httpx.Response(200, json={"requeued": 2}))
    for words, body in (
        (("t1", "t2"), {"trace_ids": ["t1", "t2"]}),
        (("--user", "ann"), {"user_id": "ann"}),
        (("--all",), {}),
    ):
        result = run("traces", "requeue", *words)
        assert result.stdout.strip() == "traces that wait again: 2"
        assert json.loads(server.asked.pop().content) == body
    wrong: list[tuple[str, ...]] = [(), ("t1", "--all"), ("--user", "ann", "--all")]
    for options in wrong:
        assert "traces, --user or --all" in one_line(run("traces", "requeue", *options), code=2)
