from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sse_starlette import EventSourceResponse
from starlette.types import Message

from mindprint.types import Batch, Trace
from mindprint_server.exceptions import LimitExceeded
from mindprint_server.store import StoreBusy
from mindprint_server.store.batches import ItemResult
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def test_submit_read_cancel(ann: str, client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/batches", json={"users": ["ann"]})
    batch = Batch.model_validate(response.json())
    assert (response.status_code, batch.state, batch.items) == (201, "queued", 3)
    assert (await client.get("/v1/batches")).json()["batches"][0]["id"] == batch.id
    assert (await client.post(f"/v1/batches/{batch.id}/cancel")).json()["state"] == "cancelled"
    assert (await client.get(f"/v1/batches/{batch.id}")).json()["state"] == "cancelled"


async def test_the_same_key_is_the_same_batch(ann: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    body: dict[str, Any] = {"idempotency_key": "k", "seed": 1}
    first, again = [await client.post("/v1/batches", json=body) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = await client.post("/v1/batches", json={**body, "seed": 2})
    assert (other.status_code, error_of(other)["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize("body", [{"hints": False}, {"mode": "generic"}, {"hints": True, "mode": "direct"}])
async def test_an_answer_that_is_shown_at_once_takes_hints(
    body: dict[str, Any], ann: str, client: httpx.AsyncClient, error_of: ErrorOf
) -> None:
    response = await client.post("/v1/batches", json={"unhinted": 0, **body})
    assert (response.status_code, error_of(response)["code"]) == (422, "validation_error")
    assert (await client.post("/v1/batches", json={"unhinted": 0})).status_code == 201


async def test_a_full_queue_says_when_to_come_back(ann: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    for _ in range(2):
        assert (await client.post("/v1/batches", json={})).status_code == 201
    response = await client.post("/v1/batches", json={})
    assert (response.status_code, error_of(response)["code"]) == (429, "batch_queue_full")
    assert response.headers["retry-after"] == "2"


async def test_unknown(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    for method, end in (("GET", ""), ("GET", "/events"), ("GET", "/results"), ("POST", "/cancel")):
        response = await client.request(method, f"/v1/batches/nothing{end}")
        assert (response.status_code, error_of(response)["code"]) == (404, "batch_not_found")


async def test_results(ann: str, client: httpx.AsyncClient, services: Services, traces: Callable[..., Trace]) -> None:
    batch = (await client.post("/v1/batches", json={})).json()
    trace = traces(batch_id=batch["id"], engagement_id="e0")
    await services.store.batches.finish_items([ItemResult(batch["id"], "ann", "e0", "accepted", [trace])], {})
    response = await client.get(f"/v1/batches/{batch['id']}/results")
    assert [json.loads(line)["id"] for line in response.text.splitlines()] == [trace.id]


def events(text: str) -> list[tuple[str, str]]:
    """The (name, data) of each event; comments are left out."""
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\r\n\r\n") if block]
    return [(block["event"], block["data"]) for block in blocks if "event" in block]


async def test_progress_ends_with_the_final_state(ann: str, client: httpx.AsyncClient, services: Services) -> None:
    batch = (await client.post("/v1/batches", json={})).json()
    watching = asyncio.create_task(client.get(f"/v1/batches/{batch['id']}/events"))
    async with asyncio.timeout(5):
        await services.batches.watched.wait()  # type: ignore[attr-defined]
        await services.batches.cancel(batch["id"])
        response = await watching
    assert response.headers["content-type"].startswith("text/event-stream")
    seen = events(response.text)
    assert {name for name, _ in seen} == {"progress"}
    assert [Batch.model_validate_json(data).state for _, data in seen] == ["queued", "cancelled"]


async def test_progress_of_a_batch_that_has_ended(ann: str, client: httpx.AsyncClient) -> None:
    batch = (await client.post("/v1/batches", json={})).json()
    await client.post(f"/v1/batches/{batch['id']}/cancel")
    async with asyncio.timeout(5):
        response = await client.get(f"/v1/batches/{batch['id']}/events")
    assert len(events(response.text)) == 1


async def test_an_event_source_that_saw_the_end_is_told_to_stop(ann: str, client: httpx.AsyncClient) -> None:
    batch = (await client.post("/v1/batches", json={})).json()
    path = f"/v1/batches/{batch['id']}/events"
    await client.post(f"/v1/batches/{batch['id']}/cancel")
    async with asyncio.timeout(5):
        first = await client.get(path)
        (id,) = re.findall(r"^id: (.+?)\r$", first.text, re.MULTILINE)
        again = await client.get(path, headers={"Last-Event-ID": id})
        behind = await client.get(path, headers={"Last-Event-ID": "queued-0"})
    assert (again.status_code, again.content) == (204, b"")
    assert (behind.status_code, behind.text) == (200, first.text), "it has not seen the end"
    assert (first.headers["cache-control"], first.headers["x-accel-buffering"]) == ("no-store", "no")


async def test_a_batch_of_openai_s_is_told_apart(ann: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    body = {"input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    response = await client.post("/v1/batches", json=body)
    assert response.status_code == 422
    assert "this is Mindprint's batch of traces, not OpenAI's Batch API: send users" in error_of(response)["message"]


async def test_watching_ends_with_an_error_event_when_the_server_stops(
    ann: str, client: httpx.AsyncClient, services: Services
) -> None:
    batch = (await client.post("/v1/batches", json={})).json()
    watching = asyncio.create_task(client.get(f"/v1/batches/{batch['id']}/events"))
    async with asyncio.timeout(5):
        await services.batches.watched.wait()  # type: ignore[attr-defined]
        services.shutdown.begin(60)
        response = await watching
    (_, first), (name, last) = events(response.text)
    assert Batch.model_validate_json(first).state == "queued"
    assert (name, json.loads(last)["error"]["code"]) == ("error", "server_stopping")
    assert services.batches.watching == 0  # type: ignore[attr-defined]


async def test_watching_is_refused_before_the_stream_begins_when_the_store_is_away(
    ann: str, client: httpx.AsyncClient, services: Services, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = (await client.post("/v1/batches", json={})).json()

    async def away(id: str) -> Batch:
        raise StoreBusy("the connection was lost")

    monkeypatch.setattr(services.store.batches, "get", away)
    response = await client.get(f"/v1/batches/{batch['id']}/events")
    assert (response.status_code, error_of(response)["code"]) == (503, "store_busy")
    assert "retry-after" in response.headers


async def test_too_many_watchers_are_refused_before_the_stream_begins(
    ann: str, client: httpx.AsyncClient, services: Services, error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = (await client.post("/v1/batches", json={})).json()

    async def full(id: str) -> AsyncGenerator[Batch]:
        if id:
            raise LimitExceeded("too_many_watchers", "2 callers watch already")
        yield Batch.model_validate(batch)

    monkeypatch.setattr(services.batches, "watch", full)
    response = await client.get(f"/v1/batches/{batch['id']}/events")
    assert (response.status_code, error_of(response)["code"]) == (429, "too_many_watchers")


async def test_watching_is_kept_alive_and_ends_when_the_caller_leaves(
    ann: str, app: FastAPI, client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventSourceResponse, "DEFAULT_PING_INTERVAL", 0.05)
    batch = (await client.post("/v1/batches", json={})).json()
    path = f"/v1/batches/{batch['id']}/events"
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http", "server": ("server", 80), "root_path": "",
    }  # fmt: skip
    left, pinged, sent = asyncio.Event(), asyncio.Event(), b""

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal sent
        sent += message.get("body", b"")
        if b": ping" in sent:
            pinged.set()

    streaming = asyncio.create_task(app(scope, receive, send))
    async with asyncio.timeout(5):
        await pinged.wait()
        left.set()
        await streaming
    assert sent.startswith(b"id: queued-0\r\nevent: progress")
    assert services.batches.watching == 0  # type: ignore[attr-defined]
