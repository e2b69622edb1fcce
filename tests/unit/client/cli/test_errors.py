"""What is tried again, what is not, and what the caller sees in the end."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import stamina

from mindprint import ApiError, ConnectionFailed, MindprintClient, MindprintError, Retries
from mindprint.types import BatchRequest, LeaseRequest, TraceRequest

BUSY = httpx.Response(503, json={"error": {"message": "starting", "type": "server_error", "code": "not_ready"}})
LOST_COMMIT = httpx.Response(
    503,
    json={
        "error": {
            "message": "the database may have stored the change or not (connection lost): read what is stored now",
            "type": "server_error",
            "code": "store_busy",
            "param": None,
        }
    },
)
"""As the server tells of a lost commit: without Retry-After and `x-should-retry`."""
PAGE = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body><hr>nginx/1.22.1</body>\n</html>"
SAFE = [
    ("users.get", ("ann",)),
    ("batches.create", (BatchRequest(idempotency_key="k"),)),
    ("batches.cancel", ("b1",)),
    ("leases.heartbeat", ("l1",)),
    ("leases.release", ("l1",)),
    ("users.add_engagements", ("ann", [])),
    ("adapters.pin", ("user/ann", 1)),
    ("cohorts.put", ("tea",)),
    ("cohorts.remove_member", ("tea", "ann")),
]
UNSAFE = [
    ("batches.create", (BatchRequest(),)),
    ("traces.create", (TraceRequest(user_id="ann", query="?"),)),
    ("leases.claim", (LeaseRequest(owner="me"),)),
    ("keys.create", ("app", ["read"])),
    ("keys.rotate", ("k1",)),
    ("chat.completions.create", ("?",)),
]
REPLY = {
    "adapters.pin": "version",
    "chat.completions.create": "chat",
    "keys.create": "created_key",
    "keys.rotate": "created_key",
    "traces.create": "trace",
    "users.get": "user",
}
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
    "failure",
    [
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.ConnectError("no"),
        BUSY,
        LOST_COMMIT,
        httpx.Response(408),
        httpx.Response(502, text=PAGE),
        httpx.Response(504, text=PAGE),
        httpx.Response(500, headers={"x-should-retry": "true"}),
    ],
)
async def test_a_safe_call_is_repeated(caller: Any, samples: Any, name: str, args: Any, failure: Any) -> None:
    caller.server.answers_with(failure, failure, fine(samples, name))
    await caller.call(name, *args)
    assert len(caller.server.asked) == 3


@pytest.mark.parametrize(("name", "args"), UNSAFE)
@pytest.mark.parametrize(
    "failure",
    [
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        BUSY,
        LOST_COMMIT,
        httpx.Response(502),
        httpx.Response(504),
        httpx.Response(503, text=PAGE, headers={"Retry-After": "2"}),
    ],
)
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
        httpx.Response(503, headers={"Retry-After": "2"}, content=BUSY.content),
        httpx.Response(500, headers={"x-should-retry": "true"}),
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
        (httpx.Response(502, text=PAGE), "server answered 502 Bad Gateway, but not as .*: try again in a moment, and"),
        (httpx.Response(503, text="no healthy upstream"), "server answered 503 Service Unavailable, .*: try again in"),
        (httpx.Response(500), r"server answered 500 Internal Server Error, .* is this a Mindprint server\?"),
        (httpx.Response(404, json={"detail": "Not Found"}), "server answered 404 Not Found, .*: compare MINDPRINT_URL"),
        (httpx.Response(307, headers={"Location": "/x"}), "server answered 307 Temporary Redirect, .*: set MINDPRINT"),
        (httpx.Response(401, text="<form>"), "server answered 401 Unauthorized, .*: a proxy before the server asks"),
        (httpx.Response(413, text=PAGE), "server answered 413 .*: let the proxy take larger bodies"),
        (httpx.Response(599, text="x" * 5000), "server answered 599, but not as a Mindprint server does"),
        (httpx.Response(502, json={"error": "<h1>"}), "server answered 502 Bad Gateway, but not as"),
    ],
)
async def test_error_of_something_else_is_one_line_without_its_body(
    caller: Any, response: httpx.Response, message: str
) -> None:
    caller.server.answers_with(response)
    with pytest.raises(ApiError, match=rf"^{message}") as caught:
        await caller.call("users.get", "ann")
    shown = str(caught.value)
    assert shown.endswith(f"({response.status_code} unknown)")
    assert "<" not in shown
    assert "\n" not in shown
    assert len(shown) < 250


async def test_error_of_something_else_names_the_request(caller: Any) -> None:
    caller.server.answers_with(httpx.Response(502, text=PAGE, headers={"X-Request-Id": "r7"}))
    with pytest.raises(ApiError, match=r"\(502 unknown, request r7\)$"):
        await caller.call("users.get", "ann")


async def test_call_is_not_repeated_when_the_server_says_so(caller: Any) -> None:
    caller.server.answers_with(httpx.Response(503, headers={"x-should-retry": "false", "Retry-After": "1"}))
    with pytest.raises(ApiError):
        await caller.call("users.get", "ann")
    assert len(caller.server.asked) == 1


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


STARTING = {"error": {"message": "the engine is starting", "type": "server_error", "code": "engine_starting"}}


def test_the_wait_for_a_server_that_starts_is_bounded(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    server.answers_with(*[httpx.Response(503, headers={"Retry-After": "2"}, json=STARTING)] * 40)
    retries = Retries(jitter_s=0, starting_s=30)
    with stamina.set_testing(False), MindprintClient("http://server", retries=retries, transport=server) as client:
        with pytest.raises(ApiError, match="the engine is starting"):
            client.users.get("ann")
        assert now[0] == 30
        once = MindprintClient("http://server", retries=Retries(attempts=1), transport=server)
        with once, pytest.raises(ApiError, match="the engine is starting"):
            once.users.get("ann")
        assert now[0] == 30, "one attempt is one attempt"


def test_the_bounds_begin_anew_once_the_server_has_started(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    starting = httpx.Response(503, headers={"Retry-After": "2"}, json=STARTING)
    server.answers_with(*[starting] * 6, *[httpx.Response(502)] * 9)
    retries = Retries(attempts=3)
    client = MindprintClient("http://server", retries=retries, transport=server)
    with stamina.set_testing(False), client, pytest.raises(ApiError, match="502"):
        client.users.get("ann")
    assert len(waits) == 6 + 2


def test_waits_of_the_client_are_not_in_the_log(
    server: Any, samples: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.StructlogOnRetryHook])
    server.answers_with(httpx.Response(429), httpx.Response(200, json=samples.user()))
    with stamina.set_testing(False), MindprintClient("http://server", transport=server) as client:
        assert client.users.get("ann").id == "ann"
        assert "stamina" not in "".join(capfd.readouterr())
        for attempt in stamina.retry_context(on=ValueError, attempts=2):
            with attempt:
                if attempt.num == 1:
                    raise ValueError("theirs")
    assert "stamina.retry_scheduled" in "".join(capfd.readouterr())
