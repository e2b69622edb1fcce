"""The schema that the server gives out, and what generated requests make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis.core.result import Ok

from mindprint_server.app import create_app
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services

StartServices = Callable[[Settings], Coroutine[Any, Any, Services]]
URL = "http://127.0.0.1"
KEY = "an-admin-key-of-forty-characters-or-more"


async def test_every_operation_names_the_error_envelope(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert {"4XX", "5XX"} <= operation["responses"].keys(), path
            assert operation.get("description"), f"{path} does not say what it does"
    assert "ErrorReply" in schema["components"]["schemas"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"choices", "max_tokens", "thinking_temperature"}),
        ("/v1/responses", {"choices", "thinking_temperature"}),
    ],
)
async def test_chat_bodies_name_our_fields(client: httpx.AsyncClient, path: str, fields: set[str]) -> None:
    operation = (await client.get("/openapi.json")).json()["paths"][path]["post"]
    assert fields <= operation["requestBody"]["content"]["application/json"]["schema"]["properties"].keys()


def test_no_request_makes_the_server_fail(settings: Settings, start_services: StartServices) -> None:
    """Valid and invalid requests, generated from the schema: none is answered with a fault of the server's."""
    statuses: dict[str, set[int]] = {}
    with asyncio.Runner() as runner:
        services = runner.run(start_services(settings.model_copy(update={"admin_key": SecretStr(KEY)})))
        app = create_app(settings, services=services)
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url=URL, headers={"Authorization": f"Bearer {KEY}"}
        )
        schema = schemathesis.openapi.from_dict(app.openapi())
        operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]

        async def ask(case: Any) -> httpx.Response:
            wanted: Any = requests.Request(**case.as_transport_kwargs(base_url=URL)).prepare()
            headers = {name: value for name, value in wanted.headers.items() if name.lower() != "content-length"}
            async with asyncio.timeout(10):
                return await client.request(case.method, wanted.url, headers=headers, content=wanted.body)

        @hypothesis_settings(
            max_examples=250,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of([operation.as_strategy() for operation in operations]))
        def generated(case: Any) -> None:
            response = runner.run(ask(case))
            statuses.setdefault(f"{case.method} {case.path}", set()).add(response.status_code)
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.json()["error"]["code"]

        try:
            generated()
        finally:
            runner.run(client.aclose())
            runner.run(services.store.close())
    assert len(statuses) > len(operations) / 2, "most operations were reached"
    assert any(status < 300 for seen in statuses.values() for status in seen)
