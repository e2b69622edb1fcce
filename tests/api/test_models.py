"""OpenAI's `models.retrieve`: what `model` of a request may name is found, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import httpx2
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


@pytest.fixture
async def openai_client(app: FastAPI) -> AsyncIterator[AsyncOpenAI]:
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1/v1") as http:
        yield AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=http, max_retries=0)


@pytest.mark.usefixtures("two_versions")
async def test_every_model_of_the_list_is_found_as_the_same_card(openai_client: AsyncOpenAI) -> None:
    listed = [model async for model in openai_client.models.list()]
    assert [model.id for model in listed] == ["base", "user/ann", "user/ann@1", "user/ann@2"]
    for model in listed:
        assert await openai_client.models.retrieve(model.id) == model


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize("name", ["user/ann@2", "user%2Fann@2", "user%2Fann%402", "user/ann%402"])
async def test_a_name_may_be_escaped(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/v1/models/{name}")
    assert (response.status_code, response.json()["id"]) == (200, "user/ann@2")


async def test_a_user_without_an_adapter_is_found_and_its_root_is_who_answers(
    client: httpx.AsyncClient, ann: str
) -> None:
    assert (await client.get(f"/v1/models/user/{ann}")).json()["root"] == "base"
    assert (await client.get("/v1/models/cohort/everyone")).json()["root"] == "base"


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize(
    "name", ["gpt-4o", "user/nobody", "user/ann@9", "cohort/none", "user/ann@", "user", "user/a/b", "base@1", "base/"]
)
async def test_an_unknown_model_is_refused_in_openai_s_form(
    client: httpx.AsyncClient, error_of: ErrorOf, name: str
) -> None:
    response = await client.get(f"/v1/models/{name}")
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["type"] == "invalid_request_error"
    assert name in error["message"]
