from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from mindprint.types import Trace
from mindprint_server.api import dependencies
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def test_one_now(ann: str, client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/traces", json={"user_id": "ann", "query": "tea?", "mode": "generic"})
    assert (response.status_code, response.json()["mode"]) == (200, "generic")


@pytest.mark.parametrize(
    "controls",
    [
        {"memory": "none", "mode": "direct", "choices": ["a", "b"], "show_choices": False},
        {"memory": "user/ben", "thinking": ""},
        {"memory": "own", "thinking": "so", "mode": "generic"},
        {"mode": "auto", "choices": ["a", "b"], "show_choices": False},
    ],
)
async def test_controlled_questions(ann: str, client: httpx.AsyncClient, controls: dict[str, Any]) -> None:
    response = await client.post("/v1/traces", json={"user_id": "ann", "query": "tea?", **controls})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "ann"},
        {"user_id": "ann", "query": "q", "engagement_id": "e1"},
        {"user_id": "ann", "query": "q", "choices": ["a", "b"], "target": "c"},
        {"user_id": "ann", "query": "q", "temperature": 3},
        {"user_id": "ann", "query": "q", "model": "user/../x"},
        {"user_id": "ann", "query": "q", "mode": "both"},
        {"user_id": "ann", "engagement_id": "e1", "mode": "auto"},
        {"user_id": "ann", "query": "q", "mode": "auto", "thinking": "so"},
        {"user_id": "ann", "query": "q", "mode": "auto", "memory": "none"},
        {"user_id": "ann", "engagement_id": "e1", "memory": "none"},
        {"user_id": "ann", "engagement_id": "e1", "thinking": ""},
        {"user_id": "ann", "engagement_id": "e1", "show_choices": False},
        {"user_id": "ann", "query": "q", "memory": "everybody"},
        {"user_id": "ann", "query": "q", "memory": "user/../x"},
        {"user_id": "ann", "query": "q", "thinking": "a\0b"},
        {"user_id": "ann", "query": "q", "thinking": "so", "mode": "direct"},
        {"user_id": "ann", "query": "q", "thinking": "so", "thinking_prefix": ""},
        {"user_id": "ann", "query": "q", "thinking": "so", "max_thinking_tokens": 9},
        {"user_id": "ann", "query": "q", "thinking": "so", "temperature": 0},
        {"user_id": "ann", "query": "q", "thinking": "so", "seed": 0},
    ],
)
async def test_contradictory_requests(body: dict[str, Any], client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.post("/v1/traces", json=body)
    assert response.status_code == 422
    error_of(response)


async def test_pages_and_filters(
    ann: str, client: httpx.AsyncClient, services: Services, traces: Callable[..., Trace]
) -> None:
    kept = [await services.store.traces.add(traces(thinking=f"t{n}")) for n in range(3)]
    wrong = await services.store.traces.add(traces(verdict="rejected", reason="wrong", state="stored"))
    page = (await client.get("/v1/traces", params={"user": "ann", "limit": 2})).json()
    assert [one["id"] for one in page["traces"]] == [kept[0].id, kept[1].id]
    rest = (await client.get("/v1/traces", params={"after": page["next"]})).json()
    assert ([one["id"] for one in rest["traces"]], rest["next"]) == ([kept[2].id, wrong.id], None)
    for filters in ({"verdict": "rejected"}, {"state": "stored"}):
        found = (await client.get("/v1/traces", params=filters)).json()["traces"]
        assert [one["id"] for one in found] == [wrong.id]
    assert (await client.get(f"/v1/traces/{wrong.id}")).json()["reason"] == "wrong"


async def test_the_traces_of_one_engagement_by_mode(
    ann: str, client: httpx.AsyncClient, services: Services, traces: Callable[..., Trace], error_of: ErrorOf
) -> None:
    personal = await services.store.traces.add(traces())
    generic = await services.store.traces.add(traces(mode="generic", state="stored"))
    await services.store.traces.add(traces(mode="generic", state="stored", engagement_id="e2"))

    async def found(**filters: str) -> list[str]:
        reply = await client.get("/v1/traces", params={"user": "ann", **filters})
        return [one["id"] for one in reply.json()["traces"]]

    assert await found(engagement="e1") == [personal.id, generic.id]
    assert await found(engagement="e1", mode="generic") == [generic.id]
    assert await found(engagement="e9") == []
    for wrong in ({"engagement": "no such\n"}, {"mode": "both"}):
        response = await client.get("/v1/traces", params=wrong)
        assert response.status_code == 422
        error_of(response)


async def test_dead_letters_are_put_back(
    ann: str, client: httpx.AsyncClient, services: Services, traces: Callable[..., Trace], error_of: ErrorOf
) -> None:
    await services.store.engagements.add("bob", (await services.store.engagements.list_page("ann"))[:2])
    made = [traces(user=user, state="dead_letter") for user in ("ann", "ann", "bob", "bob")]
    dead = [(await services.store.traces.add(trace)).id for trace in made]
    waiting = await services.store.traces.add(traces())

    async def requeued(body: dict[str, Any]) -> int:
        response = await client.post("/v1/traces/requeue", json=body)
        assert response.status_code == 200, response.text
        return int(response.json()["requeued"])

    assert await requeued({"trace_ids": [dead[0], waiting.id, "unknown"]}) == 1
    assert await requeued({"user_id": "ann"}) == 1
    assert await requeued({}) == 2
    assert await requeued({}) == 0
    assert {trace.state for trace in await services.store.traces.find()} == {"waiting"}
    wrong: list[dict[str, Any]] = [{"trace_ids": []}, {"trace_ids": ["t"], "user_id": "ann"}, {"trace_ids": ["a/b"]}]
    for body in wrong:
        response = await client.post("/v1/traces/requeue", json=body)
        assert response.status_code == 422
        error_of(response)
    response = await client.post("/v1/traces/requeue", json={"user_id": "nobody"})
    assert (response.status_code, error_of(response)["code"]) == (404, "user_not_found")


async def test_unknown(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    response = await client.get("/v1/traces/nothing")
    assert (response.status_code, error_of(response)["code"]) == (404, "trace_not_found")


@pytest.mark.parametrize("count", [0, 2, 5])
async def test_the_export_is_read_in_pages(
    count: int,
    ann: str,
    client: httpx.AsyncClient,
    services: Services,
    traces: Callable[..., Trace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = [await services.store.traces.add(traces(thinking=f"t{n}\n…")) for n in range(count)]
    sizes = []
    find = services.store.traces.find

    async def counted(**filters: Any) -> list[Trace]:
        page = await find(**filters)
        sizes.append(len(page))
        return page

    monkeypatch.setattr(services.store.traces, "find", counted)
    monkeypatch.setattr(dependencies, "PAGE", 2)
    response = await client.get("/v1/traces/export", params={"user": "ann", "verdict": "accepted"})
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [Trace.model_validate_json(line) for line in response.text.split("\n")[:-1]] == written
    assert max(sizes) <= 2
