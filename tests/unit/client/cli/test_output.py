"""Tables and JSON of lists and of single things, and what is passed on to the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_lines import one_line


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


def test_audit_events_are_shown_with_their_objects(run: Any, server: Any) -> None:
    event = {
        "id": "a1",
        "tenant": "default",
        "created_at": "2026-01-01T12:00:00Z",
        "actor": "k1",
        "action": "adapter.promote",
        "objects": {"name": "ann", "version": 3, "users": ["a", "b"]},
        "status": 200,
        "request_id": "r1",
    }
    server.answers_with(httpx.Response(200, json={"events": [event], "next": "a1"}))
    result = run("audit", "list", "--limit", "1")
    for part in ("k1", "adapter.promote", "200", "name=ann version=3 users=a,b"):
        assert part in result.stdout
    assert "mindprint audit list --after a1" in result.stderr
    assert json.loads(run("audit", "list", "--json").stdout)["events"][0]["status"] == 200


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


def test_a_rejected_trace_is_shown_with_the_real_answer(run: Any, server: Any, samples: Any) -> None:
    trace = samples.trace(answer="coffee", verdict="rejected", reason="wrong_answer", state="stored")
    first = {"engagements": [samples.engagement(2)], "next": "e2"}
    last = {"engagements": [samples.engagement(1, response="green tea")], "next": None}
    pages = [httpx.Response(200, json=page) for page in (trace, first, last)]
    server.answers_with(*pages)
    shown = run("traces", "show", "t1").stdout
    assert "green tea" in shown[shown.index("real answer") :]
    assert server.asked[-1].url.params["after"] == "e2"
    server.answers_with(httpx.Response(200, json=samples.trace()))
    assert "real answer" not in run("traces", "show", "t1").stdout


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


def test_ids_and_keys_are_whole_on_a_narrow_terminal(
    run: Any, server: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    made = samples.created_key() | {"key": f"mp_0123456789abcdef_{'s' * 43}"}
    sent = samples.api_key(id="0123456789abcdef", name="n" * 60, scopes=["infer", "ingest", "train"])
    revoked = samples.api_key(id="fedcba9876543210", revoked_at="2026-01-01T00:00:00Z")
    server.routes(POST_v1_keys=made, GET_v1_keys={"keys": [sent, revoked]})
    assert f"MINDPRINT_API_KEY={made['key']}\n" in run("keys", "create", "app", "-s", "infer").stdout
    listed = run("keys", "list").stdout.splitlines()
    assert max(map(len, listed)) <= 80
    assert [line.split()[0] for line in listed[2:]] == ["0123456789abcdef", "fedcba9876543210"]
    assert listed[3].split()[-1] == "revoked"


def test_ids_of_audited_objects_are_whole_on_a_narrow_terminal(
    run: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    event = {
        "id": "e1",
        "tenant": "default",
        "created_at": "2026-01-01T00:00:00Z",
        "actor": "0123456789abcdef",
        "action": "user.erase",
    }
    erasure = "18ecaa9ae0a8e296585caea5565e46ef"
    server.routes(GET_v1_audit={"events": [{**event, "objects": {"id": erasure}, "status": 202, "request_id": "r"}]})
    listed = run("audit", "list").stdout.splitlines()
    assert erasure in "".join(line[-28:].strip() for line in listed[2:]).replace(" ", "")


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
