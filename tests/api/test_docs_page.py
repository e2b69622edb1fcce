"""What a stranger sees first: `/`, `/docs`, and vLLM's `/health` and `/version`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
from fastapi import FastAPI

import mindprint
from mindprint_server.api.docs_page import render
from mindprint_server.app import create_app
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def test_the_page_of_the_routes_loads_nothing_from_elsewhere(client: httpx.AsyncClient, app: FastAPI) -> None:
    response = await client.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert re.findall(r"(?:src|href)=[\"'](.*?)[\"']", response.text) == ["openapi.json"]
    assert not re.search(r"<script|<link|url\(|@import", response.text)
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in response.text


def test_texts_of_the_description_are_escaped(app: FastAPI) -> None:
    schema = {**app.openapi(), "info": {"title": "<b>x</b>", "version": "1", "summary": "<i>y</i>"}}
    page = render(schema)
    assert "<b>" not in page
    assert "<i>" not in page


async def test_the_root_says_what_this_is(client: httpx.AsyncClient, settings: Settings, services: Services) -> None:
    said = (await client.get("/")).json()
    assert (said["name"], said["version"], said["docs"]) == ("mindprint", mindprint.__version__, "/docs")
    hidden = create_app(settings.model_copy(update={"openapi": False}), services=services)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(hidden), base_url="http://127.0.0.1") as other:
        assert (await other.get("/")).json()["docs"] is None
        assert (await other.get("/docs")).status_code == 404


async def test_health_and_version_are_as_vllm_has_them(
    client: httpx.AsyncClient, services: Services, error_of: ErrorOf
) -> None:
    assert (await client.get("/version")).json() == {"version": mindprint.__version__}
    response = await client.get("/health")
    assert (response.status_code, response.content) == (200, b"")
    services.engine.dead.set()
    response = await client.get("/health")
    assert (response.status_code, error_of(response)["code"]) == (503, "engine_dead")


async def test_the_bodies_of_openai_s_routes_name_their_fields(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    for path, names in (
        ("/v1/chat/completions", {"model", "messages", "mode", "stream", "n"}),
        ("/v1/completions", {"model", "prompt", "echo", "logprobs", "max_tokens"}),
        ("/v1/responses", {"model", "input", "instructions", "mode"}),
    ):
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert names <= schema["properties"].keys()
        assert schema["additionalProperties"] is True


# --- pages of other origins ---

APP = "https://app.example.com"


async def test_a_page_of_a_listed_origin_may_call(settings: Settings, services: Services, error_of: ErrorOf) -> None:
    app = create_app(settings.model_copy(update={"cors_origins": (APP,)}), services=services)
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
        preflight = await http.options("/v1/chat/completions", headers={"Origin": APP, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == APP
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answer = await http.get("/v1/models", headers={"Origin": APP})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
        assert "X-Should-Retry" in answer.headers["access-control-expose-headers"]
        refused = await http.get("/v1/users/nobody", headers={"Origin": APP})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (404, APP)
        other = await http.get("/v1/models", headers={"Origin": "https://evil.example"})
        assert (other.status_code, error_of(other)["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in other.headers


async def test_without_the_setting_no_page_of_another_origin_gets_an_answer(client: httpx.AsyncClient) -> None:
    preflight = await client.options("/v1/models", headers={"Origin": APP, "Access-Control-Request-Method": "GET"})
    assert preflight.status_code == 405
    assert (await client.get("/v1/models", headers={"Origin": APP})).status_code == 403
