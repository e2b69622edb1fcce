"""What is tried again, what is not, and what the caller sees in the end."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import stamina

from mindprint import ApiError, ConnectionFailed, MindprintClient, MindprintError, Retries
from mindprint.types import BatchRequest, LeaseRequest, TraceRequest

BUSY = httpx.Response(503, json={"error": {"message": "starting", "type": "server_error", "code": "not_ready"}})
SAFE = [
    ("users.get", ("ann",)),
    ("batches.create", (BatchRequest(idempotency_key="k"),)),
    ("leases.heartbeat", ("l1",)),
    ("users.add_engagements", ("ann", [])),
    ("adapters.pin", ("user/ann", 1)),
    ("cohorts.put", ("tea",)),
    ("cohorts.remove_member", ("tea", "ann")),
]
UNSAFE = [
    ("batches.create", (BatchRequest(),)),
    ("traces.create", (TraceRequest(user_id="ann", query="?"),)),
    ("leases.claim", (LeaseRequest(owner="me"),)),
    ("leases.release", ("l1",)),
    ("chat.completions.create", ("?",)),
]
REPLY = {"adapters.pin": "version", "chat.completions.create": "chat", "traces.create": "trace", "users.get": "user"}
NOUN = {"batches": "batch", "cohorts": "cohort", "leases": "lease"}


def fine(samples: Any, name: str) -> httpx.Response:
    if name == "users.add_engagements":
        return httpx.Response(200, json={"created": 0, "unchanged": 0})
    return httpx.Response(200, json=getattr(samples, REPLY.get(name) or NOUN[name.split(".")[0]])())


@pytest.fixture(autouse=True)
def _an_empty_batch_of_engagements(monkeypatch: pytest.MonkeyPatch) -> None:
    from mindprint.endpoints import users

    monkeypatch.setattr(users, "EngagementBatch", lambda engagements: {"engagements": engagements})


@pytest.mark.parametrize(("name", "args"), SAFE)
@pytest.mark.parametrize(
    "failure", [httpx.ReadError("reset"), httpx.ReadTimeout("slow"), httpx.ConnectError("no"), BUSY]
)
async def test_a_safe_call_is_repeated(caller: Any, samples: Any, name: str, args: Any, failure: Any) -> None:
    caller.server.answers_with(failure, failure, fine(samples, name))
    await caller.call(name, *args)
    assert len(caller.server.asked) == 3


@pytest.mark.parametrize(("name", "args"), UNSAFE)
@pytest.mark.parametrize("failure", [httpx.ReadError("reset"), httpx.ReadTimeout("slow"), BUSY])
async def test_an_unsafe_call_is_never_made_twice(
    caller: Any, samples: Any, name: str, args: Any, failure: Any
) -> None:
    caller.server.answers_with(failure, fine(samples, name))
    with pytest.raises(MindprintError):
        await caller.call(name, *args)
    assert len(caller.server.asked) == 1


@pytest.mark.parametrize(("name", "args"), UNSAFE)
@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        httpx.Response(429),
        httpx.Response(503, headers={"Retry-After": "2"}),
    ],
)
async def test_unless_it_never_came_in(caller: Any, samples: Any, name: str, args: Any, failure: Any) -> None:
    caller.server.answers_with(failure, fine(samples, name))
    await caller.call(name, *args)
    assert len(caller.server.asked) == 2


@pytest.mark.parametrize("failure", [httpx.Response(429), httpx.ConnectError("refused")])
async def test_attempts_are_bounded(caller: Any, failure: Any) -> None:
    caller.server.answers_with(failure)
    with pytest.raises(MindprintError):
        await caller.call("users.get", "ann")
    assert len(caller.server.asked) == 3


async def test_error_is_shown_in_full(caller: Any, samples: Any) -> None:
    caller.server.answers_with(
        httpx.Response(
            429,
            json=samples.refusal("batch_queue_full", "32 batches are open: wait for one", "users"),
            headers={"Retry-After": "120", "X-Request-Id": "r1"},
        )
    )
    with pytest.raises(ApiError) as caught:
        await caller.call("batches.create", BatchRequest(idempotency_key="k"))
    error = caught.value
    assert (error.status, error.code, error.param, error.type) == (
        429,
        "batch_queue_full",
        "users",
        "invalid_request_error",
    )
    assert (error.retry_after, error.request_id) == (120.0, "r1")
    assert str(error) == "32 batches are open: wait for one (429 batch_queue_full, request r1)"
    assert len(caller.server.asked) == 1, "a wait above the limit is the caller's to decide"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(502, text="<h1>Bad\nGateway</h1>"), "<h1>Bad Gateway</h1> (502 unknown)"),
        (httpx.Response(500), "Internal Server Error (500 unknown)"),
        (httpx.Response(404, json={"detail": "Not Found"}), '{"detail":"Not Found"} (404 unknown)'),
        (httpx.Response(307, headers={"Location": "/x"}), "Temporary Redirect (307 unknown)"),
        (httpx.Response(400, text="x" * 5000), "x" * 200 + " (400 unknown)"),
    ],
)
async def test_an_error_in_another_form(caller: Any, response: httpx.Response, message: str) -> None:
    caller.server.answers_with(response)
    with pytest.raises(ApiError) as caught:
        await caller.call("users.get", "ann")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("failure", "sent", "message"),
    [
        (httpx.ConnectError("refused"), False, "no server answers at http://server .*`mindprint serve`"),
        (httpx.ConnectTimeout(""), False, r"no server answers at http://server \(ConnectTimeout\)"),
        (httpx.PoolTimeout(""), False, "in time"),
        (httpx.ReadTimeout(""), True, "did not answer in time"),
        (httpx.RemoteProtocolError("incomplete"), True, r"the connection to http://server broke \(incomplete\)"),
    ],
)
async def test_a_failed_connection(caller: Any, failure: Exception, sent: bool, message: str) -> None:
    caller.server.answers_with(failure)
    with pytest.raises(ConnectionFailed, match=message) as caught:
        await caller.call("users.get", "ann")
    assert caught.value.sent is sent


def test_the_wait_that_the_server_asks_for(server: Any, samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.answers_with(
        httpx.Response(429, headers={"Retry-After": "7"}),
        httpx.ReadError("reset"),
        httpx.Response(200, json=samples.user()),
    )
    retries = Retries(wait_initial_s=0.25, jitter_s=0.5)
    with stamina.set_testing(False), MindprintClient("http://server", retries=retries, transport=server) as client:
        assert client.users.get("ann").id == "ann"
    assert 7.0 <= waits[0] <= 7.5
    assert 0.25 <= waits[1] <= 1.0
