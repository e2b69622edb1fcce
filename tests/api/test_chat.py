from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def test_it_hands_over(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    body: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.json()["object"] == "chat.completion"
    response = await client.post("/v1/chat/completions", json={**body, "model": "gpt"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert (await client.get("/v1/models")).json()["data"][0]["id"] == "base"


async def test_bodies_that_are_no_object(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post("/v1/chat/completions", json=["hi"])
    assert (response.status_code, error_of(response)["code"]) == (422, "validation_error")
    half = '{"model": "base", "messages": [{"role": "user", "content": "\\ud83d"}]}'
    headers = {"content-type": "application/json"}
    response = await client.post("/v1/chat/completions", content=half, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_unicode")
