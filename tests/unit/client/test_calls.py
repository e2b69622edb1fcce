"""What each method asks for and what it makes of the reply, for the sync and the async client."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint import ApiError, AsyncMindprintClient, BadReply, InvalidRequest, MindprintClient
from mindprint._methods import DownloadMethod, Method, Resource, StreamMethod, Workflow
from mindprint.endpoints.chat import CompletionsResource
from mindprint.endpoints.users import UsersResource
from mindprint.transport import resolve_key
from mindprint.types import BatchRequest, Engagement, ImportedTrace, LeaseRequest, Manifest, TraceRequest

INFO = {
    "mindprint": "0.1.0",
    "engine": "fake 1",
    "device": "cpu",
    "model": "m",
    "model_path": "p",
    "base_digest": "sha256:b",
    "prompt_version": "1",
    "max_model_len": 2048,
    "limits": {"max_rank": 16, "target_modules": []},
}
SYSTEM = {
    "host": "127.0.0.1",
    "port": 8300,
    "openapi": True,
    "database": "sqlite",
    "free_bytes": 1,
    "min_free_bytes": 0,
    "artifacts": "a folder",
}
PROFILE = {
    "user_id": "ann",
    "version": 2,
    "text": "Ann likes tea.",
    "tokens": 5,
    "covers": 3,
    "covers_until": "2026-01-01T12:00:00Z",
    "prompt_version": "1",
    "base_digest": "sha256:b",
    "created_at": "2026-01-01T12:00:00Z",
}
AUDIT_EVENT = {
    "id": "a1",
    "tenant": "default",
    "created_at": "2026-01-01T12:00:00Z",
    "actor": "k1",
    "action": "key.revoke",
    "objects": {"key_id": "k2", "scopes": ["read"]},
    "status": 200,
    "request_id": "r1",
}
FUNNEL = {"attempted": 3, "generated": 6, "rejected": {"loop": 1}, "accepted": 2}
ENGAGEMENT = Engagement.model_validate(
    {"id": "e1", "prompt": "Tea?", "response": "yes", "occurred_at": "2026-01-01T12:00:00Z"}
)


@pytest.mark.parametrize(
    ("name", "args", "options", "asked", "reply"),
    [
        ("server.info", (), {}, "GET /v1/info", INFO),
        ("server.funnel", ("ann",), {}, "GET /v1/funnel?user=ann", FUNNEL),
        ("users.list", (), {"limit": 5, "after": "a"}, "GET /v1/users?limit=5&after=a", {"users": [], "next": "b"}),
        ("users.get", ("ann",), {}, "GET /v1/users/ann", "user"),
        (
            "users.add_engagements",
            ("ann", [ENGAGEMENT]),
            {},
            "POST /v1/users/ann/engagements",
            {"created": 1, "unchanged": 0},
        ),
        ("users.list_engagements", ("ann",), {}, "GET /v1/users/ann/engagements?limit=100", {"engagements": []}),
        ("users.get_profile", ("ann",), {}, "GET /v1/users/ann/profile", PROFILE),
        ("users.write_profile", ("ann",), {}, "POST /v1/users/ann/profile", PROFILE),
        ("users.get_auto_mode", ("ann",), {}, "GET /v1/users/ann/auto-mode", "routes"),
        ("traces.create", (TraceRequest(user_id="ann", query="Tea?"),), {}, "POST /v1/traces", "trace"),
        ("traces.get", ("t1",), {}, "GET /v1/traces/t1", "trace"),
        (
            "traces.add",
            ("ann", [ImportedTrace(engagement_id="e1", thinking="Ann drinks tea.")]),
            {},
            "POST /v1/users/ann/traces",
            {"created": 1, "unchanged": 0},
        ),
        ("traces.requeue", (["t1"],), {}, "POST /v1/traces/requeue", {"requeued": 1}),
        ("traces.requeue", (), {"user": "ann"}, "POST /v1/traces/requeue", {"requeued": 0}),
        (
            "traces.list",
            (),
            {"user": "ann", "verdict": "accepted", "state": "waiting", "limit": 2},
            "GET /v1/traces?user=ann&verdict=accepted&state=waiting&limit=2",
            {"traces": []},
        ),
        (
            "traces.list",
            (),
            {"user": "ann", "engagement": "e/1", "mode": "generic"},
            "GET /v1/traces?user=ann&engagement=e%2F1&mode=generic&limit=100",
            {"traces": []},
        ),
        ("batches.create", (BatchRequest(),), {}, "POST /v1/batches", "batch"),
        ("batches.list", (), {}, "GET /v1/batches?limit=100", {"batches": []}),
        ("batches.get", ("b1",), {}, "GET /v1/batches/b1", "batch"),
        ("batches.cancel", ("b1",), {}, "POST /v1/batches/b1/cancel", "batch"),
        ("leases.claim", (LeaseRequest(owner="me"),), {}, "POST /v1/leases", "lease"),
        ("leases.get", ("l1",), {}, "GET /v1/leases/l1", "lease"),
        ("leases.heartbeat", ("l1", 30.0), {}, "POST /v1/leases/l1/heartbeat", "lease"),
        ("leases.release", ("l1",), {}, "POST /v1/leases/l1/release", "lease"),
        ("leases.get_publication", ("p1",), {}, "GET /v1/publications/p1", "publication"),
        ("adapters.list", (), {}, "GET /v1/adapters?limit=1000", {"adapters": []}),
        ("adapters.get", ("user/ann",), {}, "GET /v1/adapters/user/ann", "adapter"),
        ("adapters.promote", ("user/ann", 1), {}, "POST /v1/adapters/user/ann/promote", "adapter"),
        ("adapters.rollback", ("cohort/tea",), {}, "POST /v1/adapters/cohort/tea/rollback", "adapter"),
        ("adapters.set_canary", ("user/ann", 1, 0.2), {}, "PUT /v1/adapters/user/ann/canary", "adapter"),
        ("adapters.get_version", ("user/ann", 1), {}, "GET /v1/adapters/user/ann/versions/1", "version"),
        ("adapters.get_lineage", ("cohort/tea", 2), {}, "GET /v1/adapters/cohort/tea/versions/2/lineage", "lineage"),
        ("adapters.pin", ("user/ann", 1, False), {}, "POST /v1/adapters/user/ann/versions/1/pin", "version"),
        ("cohorts.list", (), {}, "GET /v1/cohorts?limit=1000", {"cohorts": []}),
        ("cohorts.get", ("tea",), {}, "GET /v1/cohorts/tea", "cohort"),
        ("cohorts.put", ("tea", "who like it"), {}, "PUT /v1/cohorts/tea", "cohort"),
        ("cohorts.add_members", ("tea", ["ann", "bob"]), {}, "POST /v1/cohorts/tea/users", "cohort"),
        ("cohorts.remove_member", ("tea", "ann"), {}, "DELETE /v1/cohorts/tea/users/ann", "cohort"),
        ("keys.create", ("app", ["infer"]), {"expires_in_s": 60.0}, "POST /v1/keys", "created_key"),
        ("keys.get_self", (), {}, "GET /v1/keys/self", "api_key"),
        ("server.system", (), {}, "GET /v1/system", SYSTEM),
        ("erasures.list", (), {"limit": 5, "after": "x"}, "GET /v1/erasures?limit=5&after=x", {"erasures": []}),
        ("erasures.get", ("x1",), {}, "GET /v1/erasures/x1", "erasure"),
        ("users.erase", ("ann",), {}, "DELETE /v1/users/ann", "erasure"),
        ("users.erase_engagement", ("ann", "a/1"), {}, "DELETE /v1/users/ann/engagements/a%2F1", "erasure"),
        (
            "users.erase_engagements",
            ("ann",),
            {"before": datetime(2026, 1, 1, tzinfo=UTC)},
            "DELETE /v1/users/ann/engagements?before=2026-01-01T00%3A00%3A00%2B00%3A00",
            "erasure",
        ),
        ("keys.list", (), {}, "GET /v1/keys?limit=1000", {"keys": []}),
        ("keys.rotate", ("k1",), {"keep_old_s": 0.0}, "POST /v1/keys/k1/rotate", "created_key"),
        ("keys.revoke", ("k1",), {}, "DELETE /v1/keys/k1", "api_key"),
        (
            "audit.list",
            (),
            {"actor": "k1", "action": "key.revoke", "since": datetime(2026, 1, 1), "limit": 5, "after": "x"},
            "GET /v1/audit?actor=k1&action=key.revoke&since=2026-01-01T00%3A00%3A00%2B00%3A00&limit=5&after=x",
            {"events": [AUDIT_EVENT], "next": "y"},
        ),
        ("models.list", (), {}, "GET /v1/models?limit=1000", {"data": [{"id": "base"}]}),
        ("chat.completions.create", ("Tea?",), {}, "POST /v1/chat/completions", "chat"),
    ],
)
async def test_each_call(
    caller: Any, samples: Any, name: str, args: tuple[Any, ...], options: dict[str, Any], asked: str, reply: Any
) -> None:
    sent = getattr(samples, reply)() if isinstance(reply, str) else reply
    caller.server.answers_with(httpx.Response(200, json=sent))
    got = await caller.call(name, *args, **options)
    request = caller.server.asked[0]
    assert f"{request.method} {request.url.raw_path.decode()}" == asked
    assert request.headers["authorization"] == "Bearer secret"
    assert got.model_dump(mode="json", exclude_unset=True).keys() == sent.keys()


async def test_the_metrics_are_text(caller: Any) -> None:
    caller.server.answers_with(httpx.Response(200, text="up 1\n"))
    assert await caller.call("server.metrics") == "up 1\n"


async def test_nothing_to_claim(caller: Any) -> None:
    caller.server.answers_with(httpx.Response(204))
    assert await caller.call("leases.claim", LeaseRequest(owner="me")) is None


async def test_taking_an_adapter_off_sends_null(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(200, json=samples.adapter(live=None)))
    assert (await caller.call("adapters.promote", "user/ann", None)).live is None
    assert json.loads(caller.server.asked[0].content) == {"version": None}


async def test_ending_a_canary_sends_null(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(200, json=samples.adapter()))
    assert (await caller.call("adapters.set_canary", "user/ann", None)).canary is None
    assert json.loads(caller.server.asked[0].content) == {"version": None, "share": 0.1}


async def test_deleting_a_cohort(caller: Any) -> None:
    caller.server.answers_with(httpx.Response(204))
    assert await caller.call("cohorts.delete", "tea") is None
    assert (caller.server.asked[0].method, caller.server.asked[0].url.path) == ("DELETE", "/v1/cohorts/tea")


async def test_what_is_left_out_is_not_sent(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(200, json=samples.batch()))
    await caller.call("batches.create", BatchRequest(users=["ann"]))
    assert json.loads(caller.server.asked[0].content) == {"users": ["ann"], "mode": "personal", "seed": 0}


async def test_chat(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(200, json=samples.chat("tea", "Ann likes it.")))
    messages = [{"role": "user", "content": "Tea?"}]
    reply = await caller.call(
        "chat.completions.create", messages, model="user/ann", mode="personal", seed=None, temperature=0.0
    )
    assert (reply.text, reply.thinking, reply.model) == ("tea", "Ann likes it.", "user/ann@1")
    assert reply.model_extra == {"mindprint": {"adapter_version": 1}}
    assert json.loads(caller.server.asked[0].content) == {
        "model": "user/ann",
        "messages": messages,
        "mode": "personal",
        "temperature": 0.0,
    }


async def test_chat_takes_no_unknown_option(caller: Any) -> None:
    with pytest.raises(TypeError, match="chat takes no top_k"):
        await caller.call("chat.completions.create", "Tea?", top_k=3)


@pytest.mark.parametrize("from_files", [True, False])
async def test_complete_uploads_both_files(caller: Any, samples: Any, tmp_path: Path, from_files: bool) -> None:
    contents = {"config": b'{"r": 8}', "weights": b"\x00\r\n--weights\xff" * 100}
    parts: dict[str, Any] = dict(contents)
    if from_files:
        for name, content in contents.items():
            parts[name] = tmp_path / name
            parts[name].write_bytes(content)
    manifest = Manifest.model_validate(samples.manifest)
    # The second attempt must send the files whole again.
    caller.server.answers_with(
        httpx.Response(503, headers={"Retry-After": "1"}),
        httpx.Response(202, json=samples.publication("published", result=samples.version(3))),
    )
    version = await caller.call("leases.complete", "l1", manifest, parts["config"], parts["weights"])
    assert version.version == 3
    first, second = caller.server.asked
    assert first.url.path == "/v1/leases/l1/complete"
    assert first.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert len(first.content) == len(second.content)
    assert b'name="manifest"\r\n\r\n' + manifest.model_dump_json().encode() in second.content
    assert b'name="config"; filename="adapter_config.json"' in second.content
    assert b'name="weights"; filename="adapter_model.safetensors"' in second.content
    assert all(content in second.content for content in contents.values())


async def test_complete_waits_for_the_publication_and_tells_its_states(
    caller: Any, samples: Any, no_pauses: list[float]
) -> None:
    states = ["stored", "loading", "loading", "gate", "gate", "gate"]
    caller.server.answers_with(
        *(httpx.Response(202, json=samples.publication(state)) for state in states),
        httpx.ReadTimeout("slow"),
        httpx.Response(200, json=samples.publication("published", result=samples.version(3))),
    )
    told: list[str] = []
    manifest = Manifest.model_validate(samples.manifest)
    version = await caller.call(
        "leases.complete", "l1", manifest, b"{}", b"w", on_progress=lambda one: told.append(one.state), poll_s=0.3
    )
    assert version.version == 3
    assert told == ["stored", "loading", "gate", "published"]
    assert {request.url.path for request in caller.server.asked[1:]} == {"/v1/publications/p1"}
    assert [pause for pause in no_pauses if pause] == [0.05, 0.1, 0.2, 0.3, 0.3, 0.3]


@pytest.mark.parametrize(
    ("state", "code", "status"),
    [("refused", "gate_failed", 422), ("failed", "publication_too_slow", 409), ("failed", "lease_revoked", 409)],
)
async def test_complete_raises_why_there_is_no_version(
    caller: Any, samples: Any, state: str, code: str, status: int
) -> None:
    ended = samples.publication(state, code=code, message="it was so")
    caller.server.answers_with(httpx.Response(202, json=ended))
    manifest = Manifest.model_validate(samples.manifest)
    with pytest.raises(ApiError, match="it was so") as caught:
        await caller.call("leases.complete", "l1", manifest, b"{}", b"w")
    assert (caught.value.status, caught.value.code) == (status, code)


async def test_complete_of_a_version_that_was_erased_since_says_so(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(202, json=samples.publication("published")))
    manifest = Manifest.model_validate(samples.manifest)
    with pytest.raises(ApiError, match="has been erased since"):
        await caller.call("leases.complete", "l1", manifest, b"{}", b"w")


async def test_ids_stay_one_segment_of_the_path(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(200, json=samples.user()))
    await caller.call("users.get", "a/../b?c#d")
    assert caller.server.asked[0].url.raw_path == b"/v1/users/a%2F..%2Fb%3Fc%23d"


@pytest.mark.parametrize(
    ("name", "argument"),
    [("users.get", ""), ("users.get", ".."), ("batches.get", "."), ("adapters.get", "ann"), ("adapters.get", "user/")],
)
async def test_what_is_no_id_is_not_sent(caller: Any, name: str, argument: str) -> None:
    with pytest.raises(InvalidRequest, match="is no"):
        await caller.call(name, argument)
    assert not caller.server.asked


@pytest.mark.parametrize("text", ["<html>hello</html>", "[]", '{"id": 3}', "", "\xff"])
async def test_a_reply_that_makes_no_sense(caller: Any, text: str) -> None:
    caller.server.answers_with(httpx.Response(200, content=text.encode("latin-1")))
    with pytest.raises(BadReply, match=r"GET http://server/v1/users/ann .* is this a Mindprint server"):
        await caller.call("users.get", "ann")
    assert len(caller.server.asked) == 1


async def test_fields_of_a_newer_server_are_ignored(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(200, json=samples.user(mood="good")))
    assert (await caller.call("users.get", "ann")).id == "ann"


@pytest.mark.parametrize(
    ("answer", "ready"),
    [(httpx.Response(200), True), (httpx.Response(503), False), (httpx.ConnectError("refused"), False)],
)
async def test_ready_asks_once(caller: Any, answer: Any, ready: bool) -> None:
    caller.server.answers_with(answer)
    assert await caller.call("ready") is ready
    assert len(caller.server.asked) == 1


def test_where_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with MindprintClient() as client:
        assert client.url == "http://127.0.0.1:8300"
    monkeypatch.setenv("MINDPRINT_URL", "https://elsewhere:1/base/")
    with MindprintClient() as client:
        assert client.url == "https://elsewhere:1/base"
    with MindprintClient("http://here/") as client:
        assert client.url == "http://here"
    for wrong in ("here:80", "ftp://here", "http://"):
        with pytest.raises(InvalidRequest, match="write it like http"):
            MindprintClient(wrong)


def test_the_key_comes_from_the_environment_or_not_at_all(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    server.answers_with(httpx.Response(200, text=""))
    with MindprintClient(transport=server) as client:
        client.server.metrics()
    monkeypatch.setenv("MINDPRINT_API_KEY", "k")
    with MindprintClient(transport=server) as client:
        client.server.metrics()
    assert "authorization" not in server.asked[0].headers
    assert server.asked[1].headers["authorization"] == "Bearer k"


def test_both_clients_have_every_call() -> None:
    with MindprintClient() as client:
        resources = {name: type(value) for name, value in vars(client).items() if isinstance(value, Resource)}
        resources["chat.completions"] = CompletionsResource
        described = {
            f"{noun}.{name}": method
            for noun, kind in resources.items()
            for name, method in vars(kind).items()
            if isinstance(method, Method | StreamMethod | DownloadMethod | Workflow)
        }
        assert len(described) >= 30
        for one in (client, AsyncMindprintClient()):
            for name, method in described.items():
                bound = attrgetter(name)(one)
                assert bound.__doc__ == method.__doc__ is not None
                assert "self" not in signature(bound).parameters


def test_a_call_is_described_without_a_client() -> None:
    call = UsersResource.get.describe("ann")
    assert (call.method, call.path) == ("GET", "/v1/users/ann")


@pytest.mark.parametrize("key", [" mp_k1_secret\n", "mp_k1_secret"])
def test_white_space_around_the_key_is_cut_off(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINDPRINT_API_KEY", key)
    assert resolve_key(None) == "mp_k1_secret"


@pytest.mark.parametrize("key", ["mp_k1\nsecret", "mp_k1 secret", "mp_k1_s\N{LATIN SMALL LETTER E WITH ACUTE}cret"])
def test_a_key_that_no_header_can_hold_is_refused_without_its_text(key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        MindprintClient("http://127.0.0.1:1", key)
    assert "mp_k1" not in str(refused.value)
