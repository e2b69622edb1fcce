from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
WALKERS = "/v1/cohorts/walkers"


async def counts(client: httpx.AsyncClient) -> dict[str, int]:
    return {one["name"]: one["users"] for one in (await client.get("/v1/cohorts")).json()["cohorts"]}


async def test_a_cohort_is_made_described_joined_left_and_deleted(client: httpx.AsyncClient, ann: str) -> None:
    assert await counts(client) == {"everyone": 1}
    made = (await client.put(WALKERS, json={})).json()
    assert (made["name"], made["description"], made["users"], made["live"]) == ("walkers", "", 0, None)
    assert (await client.put(WALKERS, json={"description": "they walk"})).json()["description"] == "they walk"
    assert (await client.post(f"{WALKERS}/users", json={"users": [ann]})).json()["users"] == 1
    assert (await client.get(f"/v1/users/{ann}")).json()["cohort"] == "walkers"
    assert await counts(client) == {"everyone": 0, "walkers": 1}
    assert (await client.delete(f"{WALKERS}/users/{ann}")).json()["users"] == 0
    await client.post(f"{WALKERS}/users", json={"users": [ann]})
    response = await client.delete(WALKERS)
    assert (response.status_code, response.content) == (204, b"")
    assert await counts(client) == {"everyone": 1}
    assert (await client.get(f"/v1/users/{ann}")).json()["cohort"] == "everyone"


async def test_what_is_not_there(client: httpx.AsyncClient, ann: str, error_of: ErrorOf) -> None:
    for method, path, body in (
        ("GET", WALKERS, None),
        ("DELETE", WALKERS, None),
        ("POST", f"{WALKERS}/users", {"users": [ann]}),
        ("DELETE", f"{WALKERS}/users/{ann}", None),
    ):
        response = await client.request(method, path, json=body)
        assert (response.status_code, error_of(response)["code"]) == (404, "cohort_not_found")
    await client.put(WALKERS, json={})
    response = await client.post(f"{WALKERS}/users", json={"users": [ann, "nobody"]})
    assert (response.status_code, error_of(response)["code"]) == (404, "user_not_found")
    assert (await counts(client))["walkers"] == 0, "all or none"
    response = await client.delete(f"{WALKERS}/users/{ann}")
    assert (response.status_code, error_of(response)["code"]) == (404, "member_not_found")


async def test_everyone_stays(client: httpx.AsyncClient, ann: str, error_of: ErrorOf) -> None:
    assert (await client.put("/v1/cohorts/everyone", json={"description": "all others"})).status_code == 200
    for method, path, body in (
        ("DELETE", "/v1/cohorts/everyone", None),
        ("POST", "/v1/cohorts/everyone/users", {"users": [ann]}),
        ("DELETE", f"/v1/cohorts/everyone/users/{ann}", None),
    ):
        response = await client.request(method, path, json=body)
        assert (response.status_code, error_of(response)["code"]) == (409, "everyone_stays")


async def test_names_that_are_none(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.put("/v1/cohorts/a..b", json={})
    assert (response.status_code, error_of(response)["code"]) == (422, "invalid_name")
    await client.put(WALKERS, json={})
    bodies: list[dict[str, Any]] = [{"users": []}, {"users": ["a/b"]}, {}]
    for body in bodies:
        assert (await client.post(f"{WALKERS}/users", json=body)).status_code == 422
