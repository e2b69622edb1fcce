from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import httpx
from fastapi import FastAPI

from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
BODY: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


async def test_it_hands_over(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post("/v1/chat/completions", json=BODY)
    assert response.json()["object"] == "chat.completion"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["mindprint-model"] == "base"
    response = await client.post("/v1/chat/completions", json={**BODY, "model": "gpt"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert (await client.get("/v1/models")).json()["data"][0]["id"] == "base"


async def test_stream_is_sent_as_server_sent_events(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**BODY, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["mindprint-model"] == "base"
    assert "content-length" not in response.headers
    assert (response.headers["x-accel-buffering"], response.headers["cache-control"]) == ("no", "no-store")
    assert response.text == "data: {}\n\ndata: [DONE]\n\n"


async def test_disconnect_reaches_the_chat_service(app: FastAPI, services: Services) -> None:
    waiting = cast(Any, services.chat).waiting = asyncio.Event()
    body_is_read, sent = False, []

    async def receive() -> dict[str, Any]:
        nonlocal body_is_read
        if not body_is_read:
            body_is_read = True
            return {"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}
        await waiting.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    assert sent[0]["status"] == 499
    assert json.loads(sent[1]["body"])["error"]["code"] == "client_closed_request"


async def test_bodies_that_are_no_object(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post("/v1/chat/completions", json=["hi"])
    assert (response.status_code, error_of(response)["code"]) == (400, "validation_error")
    half = '{"model": "base", "messages": [{"role": "user", "content": "\\ud83d"}]}'
    headers = {"content-type": "application/json"}
    response = await client.post("/v1/chat/completions", content=half, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_unicode")
