from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
TEA = {"id": "e1", "prompt": "tea or coffee?", "response": "tea", "occurred_at": "2026-01-01T00:00:00Z"}


async def test_engagements_make_the_user_and_may_come_twice(client: httpx.AsyncClient) -> None:
    for created in (1, 0):
        response = await client.post("/v1/users/ann/engagements", json={"engagements": [TEA]})
        assert (response.status_code, response.json()) == (200, {"created": created, "unchanged": 1 - created})
    user = (await client.get("/v1/users/ann")).json()
    assert (user["id"], user["engagements"]) == ("ann", 1)


async def test_a_repeated_id_with_other_content_stores_nothing(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    await client.post("/v1/users/ann/engagements", json={"engagements": [TEA]})
    other = [{**TEA, "id": "e2"}, {**TEA, "response": "coffee"}]
    response = await client.post("/v1/users/ann/engagements", json={"engagements": other})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (409, "engagement_conflict")
    assert "'e1'" in error["message"]
    assert (await client.get("/v1/users/ann")).json()["engagements"] == 1


async def test_pages(client: httpx.AsyncClient) -> None:
    for user in ("ann", "ben", "eve"):
        body = {"engagements": [{**TEA, "id": f"e{n}"} for n in range(3)]}
        await client.post(f"/v1/users/{user}/engagements", json=body)
    for path, ids in (("/v1/users", ["ann", "ben", "eve"]), ("/v1/users/ann/engagements", ["e0", "e1", "e2"])):
        seen, after = [], None
        for _ in range(2):
            page = (await client.get(path, params={"limit": 2} | ({"after": after} if after else {}))).json()
            seen += [one["id"] for one in page[path.rsplit("/", 1)[1]]]
            after = page["next"]
        assert (seen, after) == (ids, None)


async def test_unknown_users(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    for method, path in (
        ("GET", "/v1/users/nobody"),
        ("GET", "/v1/users/nobody/engagements"),
        ("GET", "/v1/users/nobody/profile"),
        ("POST", "/v1/users/nobody/profile"),
        ("GET", "/v1/funnel?user=nobody"),
        ("GET", "/v1/traces/export?user=nobody"),
    ):
        response = await client.request(method, path)
        assert (response.status_code, error_of(response)["code"]) == (404, "user_not_found"), path
    response = await client.post("/v1/batches", json={"users": ["nobody"]})
    assert (response.status_code, error_of(response)["code"]) == (404, "user_not_found")


async def test_the_profile_is_written_on_request(ann: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.get("/v1/users/ann/profile")
    assert (response.status_code, error_of(response)["code"]) == (404, "profile_not_found")
    assert "POST /v1/users/ann/profile" in response.text
    written = await client.post("/v1/users/ann/profile")
    assert written.status_code == 200
    assert (await client.get("/v1/users/ann/profile")).json() == written.json()


async def test_what_auto_would_do(ann: str, client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.get("/v1/users/ann/auto-mode")
    assert response.status_code == 200
    found = response.json()
    assert (found["user_id"], found["model"]) == ("ann", "base")
    for kind in ("closed", "open"):
        assert (found[kind]["mode"], found[kind]["reason"], found[kind]["items"]) == ("direct", "too_few", 0)
    response = await client.get("/v1/users/nobody/auto-mode")
    assert (response.status_code, error_of(response)["code"]) == (404, "user_not_found")


GIVEN = {"engagement_id": "e1", "thinking": "Ann drinks tea."}


async def test_import_of_the_same_thinking_twice_changes_nothing(ann: str, client: httpx.AsyncClient) -> None:
    for created in (1, 0):
        response = await client.post("/v1/users/ann/traces", json={"traces": [GIVEN]})
        assert (response.status_code, response.json()) == (200, {"created": created, "unchanged": 1 - created})
    [trace] = (await client.get("/v1/traces", params={"user": "ann"})).json()["traces"]
    assert (trace["answer"], trace["state"], trace["provenance"]["model"]) == ("tea", "waiting", "imported")


@pytest.mark.parametrize(
    ("traces", "status", "code", "param"),
    [
        ([], 422, "validation_error", "traces"),
        ([{**GIVEN, "thinking": ""}], 422, "validation_error", "traces[0].thinking"),
        ([GIVEN, {**GIVEN, "thinking": "so </think>"}], 422, "validation_error", "traces[1].thinking"),
        ([GIVEN, {**GIVEN, "engagement_id": "e9"}], 404, "engagement_not_found", "traces[1].engagement_id"),
        ([{**GIVEN, "scores": {"gain": "NaN"}}], 422, "validation_error", "traces[0].scores.gain"),
        ([{**GIVEN, "scores": {f"s{n}": n for n in range(33)}}], 422, "validation_error", "traces[0].scores"),
        ([{**GIVEN, "answer": "tea"}], 422, "validation_error", "traces[0].answer"),
    ],
)
async def test_import_stores_all_traces_or_none(
    traces: Any, status: int, code: str, param: str, ann: str, client: httpx.AsyncClient, error_of: ErrorOf
) -> None:
    response = await client.post("/v1/users/ann/traces", json={"traces": traces})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert (await client.get("/v1/traces")).json()["traces"] == []


async def test_thinking_for_nobody_and_more_than_may_wait(
    ann: str, client: httpx.AsyncClient, services: Services, error_of: ErrorOf
) -> None:
    response = await client.post("/v1/users/nobody/traces", json={"traces": [GIVEN]})
    assert (response.status_code, error_of(response)["code"]) == (404, "user_not_found")
    services.settings.max_backlog = 1
    response = await client.post("/v1/users/ann/traces", json={"traces": [GIVEN, {**GIVEN, "engagement_id": "e2"}]})
    assert (response.status_code, error_of(response)["code"]) == (429, "backlog_full")


async def test_limits_of_pages(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    for query in ("limit=0", "limit=1001", "limit=x", "after=%00", "after=../x"):
        response = await client.get(f"/v1/users?{query}")
        assert (response.status_code, error_of(response)["param"]) == (422, query.split("=")[0])
