"""Lists that could grow without end come in pages: each entry once, in the order of the whole list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mindprint.types import BatchRequest
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def pages_of(client: httpx.AsyncClient, path: str, noun: str, **headers: str) -> list[list[str]]:
    """The ids of a list, two a page."""
    pages: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(path, params={"limit": 2, **after}, headers=headers)).json()
        pages.append([one.get("id") or one.get("key") or one["name"] for one in page[noun]])
        if page["next"] is None:
            return pages
        after = {"after": page["next"]}


async def test_batches_come_in_pages_newest_first(client: httpx.AsyncClient, ann: str, services: Services) -> None:
    ids = [
        (await services.store.batches.add(BatchRequest(users=[ann], seed=seed), [], max_open=9))[0].id
        for seed in range(5)
    ]
    newest = ids[::-1]
    assert await pages_of(client, "/v1/batches", "batches") == [newest[:2], newest[2:4], newest[4:]]


async def test_cohorts_come_in_pages_by_name(client: httpx.AsyncClient, services: Services) -> None:
    for name in ("tea", "coffee"):
        await services.store.cohorts.put(name, "")
    assert await pages_of(client, "/v1/cohorts", "cohorts") == [["coffee", "everyone"], ["tea"]]


async def test_keys_come_in_pages_by_age(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    made = [(await client.post("/v1/keys", json={"name": "k", "scopes": ["admin"]})).json()]
    headers = {"Authorization": f"Bearer {made[0]['key']}"}
    for _ in range(3):
        reply = await client.post("/v1/keys", json={"name": "k", "scopes": ["read"]}, headers=headers)
        made.append(reply.json())
    ids = [one["id"] for one in made]
    assert await pages_of(client, "/v1/keys", "keys", **headers) == [ids[:2], ids[2:]]
    unknown = await client.get("/v1/keys", params={"after": "0" * 16}, headers=headers)
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "key_not_found")


@pytest.mark.usefixtures("two_versions")
async def test_adapters_come_in_pages_with_all_their_versions(
    client: httpx.AsyncClient, services: Services, published: Callable[[str], Any]
) -> None:
    for user in ("bob", "carl"):
        await published(user)
    assert await pages_of(client, "/v1/adapters", "adapters") == [["user/ann", "user/bob"], ["user/carl"]]
    first = (await client.get("/v1/adapters", params={"limit": 1})).json()
    assert [version["version"] for version in first["adapters"][0]["versions"]] == [1, 2]
    assert (await client.get("/v1/adapters", params={"after": "user/carl"})).json() == {"adapters": [], "next": None}


@pytest.mark.usefixtures("two_versions")
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_models_come_in_pages_of_openai_s_form(
    client: httpx.AsyncClient, published: Callable[[str], Any], limit: int
) -> None:
    await published("bob")
    names = ["base", "user/ann", "user/ann@1", "user/ann@2", "user/bob", "user/bob@1"]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get("/v1/models", params={"limit": limit, **after})).json()
        assert page["object"] == "list"
        ids = [card["id"] for card in page["data"]]
        assert ids == names[len(seen) : len(seen) + limit]
        seen += ids
        assert page["last_id"] == ids[-1]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert seen == names


@pytest.mark.usefixtures("two_versions")
async def test_a_page_of_models_goes_on_after_a_model_that_is_gone(
    client: httpx.AsyncClient, services: Services
) -> None:
    await services.store.live_versions.set_live("user/ann", None)
    for gone, rest in {
        "user/ann": ["user/ann@1", "user/ann@2"],
        "user/aaa": ["user/ann@1", "user/ann@2"],
        "user/ann@2": [],
        "user/zoe": [],
    }.items():
        page = (await client.get("/v1/models", params={"after": gone})).json()
        assert [card["id"] for card in page["data"]] == rest
        assert page["has_more"] is False


@pytest.mark.parametrize("path", ["/v1/adapters", "/v1/batches", "/v1/cohorts", "/v1/keys", "/v1/models"])
@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=%00", "after=../x"])
async def test_a_page_has_bounds(client: httpx.AsyncClient, path: str, query: str, error_of: ErrorOf) -> None:
    response = await client.get(f"{path}?{query}")
    # OpenAI's routes answer as OpenAI does.
    status = 400 if path == "/v1/models" else 422
    assert (response.status_code, error_of(response)["code"]) == (status, "validation_error")
