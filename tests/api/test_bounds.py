"""Bodies that nest too deep, on every route that takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
JSON = {"content-type": "application/json"}


def _routes_with_a_body(app: FastAPI) -> list[tuple[str, str]]:
    return [
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    ]


@pytest.mark.parametrize("depth", [65, 200, 900, 950, 980, 990, 1000, 30_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_deep_body_is_refused(
    app: FastAPI, client: httpx.AsyncClient, error_of: ErrorOf, depth: int, opening: str
) -> None:
    app.state.settings.max_body_bytes = 1_000_000
    closing = "]" if opening == "[" else "}"
    body = opening * depth + "1" + closing * depth
    routes = _routes_with_a_body(app)
    assert len(routes) > 8
    for method, path in routes:
        path = path.replace("{kind}", "user").replace("{number}", "1")
        path = path.replace("{", "").replace("}", "").replace("_id", "")
        response = await client.request(method, path, content=body, headers=JSON)
        error = error_of(response)
        assert (response.status_code, error["code"]) == (400, "invalid_json"), path
        assert "nests more than 64" in error["message"], path


async def test_brackets_in_a_text_are_no_levels(client: httpx.AsyncClient, ann: str) -> None:
    body = {"engagements": [_engagement("[" * 5000 + '\\"{' * 100)]}
    assert (await client.post("/v1/users/ann/engagements", json=body)).status_code == 200


def _engagement(prompt: str) -> dict[str, str]:
    return {"id": "x", "prompt": prompt, "response": "tea", "occurred_at": "2026-01-01T00:00:00Z"}


async def test_headers_that_came_in_one_piece_are_bounded(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    reply = await client.get("/v1/users", headers={"X-Long": "x" * 70_000})
    assert (reply.status_code, error_of(reply)["code"]) == (431, "headers_too_large")
    assert (await client.get("/v1/users", headers={"X-Long": "x" * 60_000})).status_code == 200
