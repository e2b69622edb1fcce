"""A server that is written down beforehand: it answers from a list and keeps what it was asked."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from operator import attrgetter
from typing import Any

import httpx
import pytest
import stamina
from typer.testing import CliRunner, Result

from mindprint import AsyncMindprintClient, MindprintClient, Retries
from mindprint.cli import app

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]
WHEN = "2026-01-01T12:00:00Z"
MADE: dict[str, Any] = {
    "model": "base",
    "adapter_digest": None,
    "base_digest": "sha256:b",
    "prompt_version": "1",
    "mode": "personal",
    "sampling": {},
    "seed": 1,
    "engine": "fake 1",
}
MANIFEST: dict[str, Any] = {
    "adapter": "user/ann",
    "base_digest": "sha256:b",
    "weights_sha256": "0" * 64,
    "trace_ids": ["t1"],
    "samples": {"slow": 1},
    "settings": {},
    "losses": {"last": 1.0},
    "tokens": 10,
    "seconds": 1.0,
    "trainer": "t",
    "parity_items": [{"prompt_ids": [1], "target_ids": [2], "logprobs": [-1.0], "base_logprobs": [-2.0]}],
}


class Samples:
    """Replies as the server sends them, as JSON values."""

    manifest: dict[str, Any] = MANIFEST

    def user(self, **changes: Any) -> dict[str, Any]:
        return {"id": "ann", "created_at": WHEN, "engagements": 3, **changes}

    def engagement(self, number: int = 1, **changes: Any) -> dict[str, Any]:
        return {"id": f"e{number}", "prompt": "Tea?", "response": "tea", "occurred_at": WHEN, **changes}

    def routes(self, **changes: Any) -> dict[str, Any]:
        pays = {"mode": "personal", "reason": "pays", "why": "thinking pays", "items": 40, "mean": 0.125, "low": 0.05}
        few = {"mode": "direct", "reason": "too_few", "why": "open questions whose gain is known: 0, wanted: 16"}
        return {"user_id": "ann", "model": "user/ann@2", "closed": {**pays, "unit": "nats"}, "open": few, **changes}

    def trace(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": "t1",
            "user_id": "ann",
            "engagement_id": "e1",
            "mode": "personal",
            "query": "Tea or coffee?",
            "thinking": "Ann drinks tea.",
            "answer": "tea",
            "verdict": "accepted",
            "state": "waiting",
            "provenance": MADE,
            "created_at": WHEN,
            **changes,
        }

    def batch(self, state: str = "running", done: int = 1, **changes: Any) -> dict[str, Any]:
        return {
            "id": "b1",
            "state": state,
            "request": {"mode": "personal"},
            "items": 4,
            "done": done,
            "skipped": {"no_history": 1},
            "funnel": {"attempted": 3, "generated": 6, "rejected": {"loop": 2}, "accepted": done},
            "tokens_per_second": 42.0,
            "created_at": WHEN,
            **changes,
        }

    def erasure(self, **changes: Any) -> dict[str, Any]:
        made = {"id": "x1", "kind": "user", "user_id": "ann", "state": "open", "created_at": WHEN}
        return {**made, **changes}

    def lease(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": "l1",
            "adapter": "user/ann",
            "owner": "me",
            "state": "active",
            "deadline": WHEN,
            "attempt": 1,
            "trace_ids": ["t1"],
            "base_digest": "sha256:b",
            "limits": {"max_rank": 16, "target_modules": ["q_proj"]},
            **changes,
        }

    def version(self, number: int = 1, **changes: Any) -> dict[str, Any]:
        parity = {"passed": True, "against_trainer": 0.01, "against_base": 0.4, "tokens": 40}
        return {
            "adapter": "user/ann",
            "version": number,
            "state": "live",
            "digest": "sha256:0123456789",
            "base_digest": "sha256:b",
            "traces": 1,
            "parity": parity,
            "manifest": MANIFEST,
            "created_at": WHEN,
            **changes,
        }

    def publication(self, state: str = "gate", **changes: Any) -> dict[str, Any]:
        finished = WHEN if state in ("published", "refused", "failed") else None
        return {
            "id": "p1",
            "lease_id": "l1",
            "adapter": "user/ann",
            "version": 3,
            "state": state,
            "steps": {"stored": WHEN},
            "tries": 1,
            "created_at": WHEN,
            "finished_at": finished,
            **changes,
        }

    def adapter(self, **changes: Any) -> dict[str, Any]:
        return {"key": "user/ann", "live": 1, "versions": [self.version()], **changes}

    def lineage(self, **changes: Any) -> dict[str, Any]:
        learned = {"trace_id": "t1", "user_id": "ann", "engagement_id": "e1", "saw_answer": False, "scores": {}}
        return {
            "version": self.version(),
            "traces": [learned],
            "fast": {"ann": ["e1"]},
            "held_out": {"ann": ["e8", "e9"]},
            "ancestors": [],
            **changes,
        }

    def cohort(self, **changes: Any) -> dict[str, Any]:
        return {"name": "tea", "description": "who like it", "users": 2, "live": 1, "created_at": WHEN, **changes}

    def api_key(self, **changes: Any) -> dict[str, Any]:
        return {
            "id": "k1",
            "tenant": "default",
            "name": "app",
            "scopes": ["infer", "read"],
            "created_at": WHEN,
            **changes,
        }

    def created_key(self, **changes: Any) -> dict[str, Any]:
        return self.api_key(key="mp_k1_secret", **changes)

    def chat(self, text: str = "tea", thinking: str | None = None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "reasoning_content": thinking}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {"id": "c1", "model": "user/ann@1", "choices": choices, "mindprint": {"adapter_version": 1}}

    def refusal(self, code: str, message: str = "no", param: str | None = None) -> dict[str, Any]:
        return {"error": {"message": message, "type": "invalid_request_error", "code": code, "param": param}}

    def event(self, batch: dict[str, Any]) -> bytes:
        return f"event: progress\r\ndata: {json.dumps(batch)}\r\n\r\n".encode()

    def chat_chunks(self, *pieces: tuple[str, str], done: bool = True) -> bytes:
        """Server-sent chunks of (field, text), as `("content", "te")`."""
        lines = [json.dumps({"choices": [{"index": 0, "delta": {field: text}}]}) for field, text in pieces]
        return "".join(f"data: {line}\n\n" for line in [*lines, *(["[DONE]"] if done else [])]).encode()


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces, and breaks if a piece is an exception."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def fresh(response: httpx.Response) -> httpx.Response:
    """The same answer once more: httpx binds a response to the client that read it."""
    if isinstance(response.stream, Body):
        return httpx.Response(response.status_code, headers=response.headers, stream=response.stream)
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


class Server(httpx.MockTransport):
    """Gives its answers in turn; the last one again and again."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.answers: list[Answer] = []
        self.asked: list[httpx.Request] = []

    def answers_with(self, *answers: Answer) -> None:
        self.answers = list(answers)

    def routes(self, **by_path: Any) -> None:
        """`GET_v1_users={...}` answers GET /v1/users with that JSON."""

        def answer(request: httpx.Request) -> httpx.Response:
            name = f"{request.method}{request.url.path.replace('/', '_')}"
            found = by_path.get(name)
            assert found is not None, f"nobody answers {name}"
            return fresh(found) if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

        self.answers = [answer]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return fresh(answer) if isinstance(answer, httpx.Response) else answer(request)


class Caller:
    """Calls the sync or the async client, so that each test tells of both."""

    def __init__(self, client: MindprintClient | AsyncMindprintClient, server: Server) -> None:
        self.client = client
        self.server = server

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        reply = attrgetter(name)(self.client)(*args, **options)
        return await reply if inspect.isawaitable(reply) else reply

    async def items(self, name: str, *args: Any, first: int | None = None, **options: Any) -> list[Any]:
        """All items of a stream, or the `first` ones, after which it is left."""
        stream = attrgetter(name)(self.client)(*args, **options)
        found: list[Any] = []
        if isinstance(self.client, MindprintClient):
            for item in stream:
                found.append(item)
                if len(found) == first:
                    stream.close()
        else:
            async with aclosing(stream):
                async for item in stream:
                    found.append(item)
                    if len(found) == first:
                        break
        return found


@pytest.fixture
def samples() -> Samples:
    return Samples()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def body() -> type[Body]:
    return Body


@pytest.fixture(params=["sync", "async"])
async def caller(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Caller]:
    retries = Retries(attempts=3)
    if request.param == "sync":
        with MindprintClient("http://server", "secret", retries=retries, transport=server) as client:
            yield Caller(client, server)
    else:
        async with AsyncMindprintClient("http://server", "secret", retries=retries, transport=server) as aclient:
            yield Caller(aclient, server)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Retries happen, but at once; nothing of this machine's own set-up plays a part."""
    for name in ("MINDPRINT_URL", "MINDPRINT_API_KEY", "MINDPRINT_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    hooks = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([])
    with stamina.set_testing(True, attempts=10, cap=True):
        yield
    stamina.instrumentation.set_on_retry_hooks(hooks)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses of workflows take no time; their seconds are noted."""
    noted: list[float] = []

    async def pause(seconds: float) -> None:
        noted.append(seconds)

    monkeypatch.setattr("mindprint.sync_client.time.sleep", noted.append)
    monkeypatch.setattr("mindprint.async_client.asyncio.sleep", pause)
    return noted


@pytest.fixture
def run(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command against `server`."""

    def connected(url: str | None, **options: Any) -> MindprintClient:
        return MindprintClient(url, transport=server, **options)

    monkeypatch.setattr("mindprint.cli.options.MindprintClient", connected)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")

    def invoke(*words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(words), input=stdin)

    return invoke
