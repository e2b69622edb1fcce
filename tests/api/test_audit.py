"""The audit log over HTTP: which requests are recorded, and what of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from mindprint.types import AuditEvent
from mindprint_server.access import create_admin_key
from mindprint_server.api.audit import MARK, noted, pick
from mindprint_server.app import create_app
from mindprint_server.operation.audit import AuditLog
from mindprint_server.operation.supervision import Supervisor
from mindprint_server.settings import Settings
from mindprint_server.store import Store, StoreBusy
from mindprint_server.store.audit import new_event
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]


async def events(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    reply = await client.get("/v1/audit", params=query)
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["events"]
    return found


def of(event: dict[str, Any]) -> tuple[Any, ...]:
    return event["actor"], event["action"], event["objects"], event["status"]


def test_every_route_that_may_change_something_states_whether_it_is_recorded(app: FastAPI) -> None:
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods - {"GET", "HEAD"}:
            assert MARK in (route.openapi_extra or {}), f"{route.path}: add openapi_extra=audited(...) or NOT_AUDITED"
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            assert MARK in operation or method == "get", f"{method} {path}"


def test_routes_that_are_not_recorded(app: FastAPI) -> None:
    """Ingest, generation, and leases that are kept. A new route joins these only on purpose."""
    stated = {
        f"{method.upper()} {path}"
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if operation.get(MARK) is False
    }
    assert stated == {
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/responses",
        "POST /v1/leases",
        "POST /v1/leases/{lease_id}/heartbeat",
        "POST /v1/leases/{lease_id}/release",
        "POST /v1/traces",
        "POST /v1/users/{user_id}/engagements",
        "POST /v1/users/{user_id}/traces",
    }


async def test_changes_are_recorded_with_actor_objects_and_status(client: httpx.AsyncClient, ann: str) -> None:
    await client.put("/v1/cohorts/tea", json={"description": "People who like tea."})
    await client.post("/v1/cohorts/tea/users", json={"users": [ann]}, headers={"X-Request-Id": "r-7"})
    await client.post(f"/v1/users/{ann}/profile")
    batch = (await client.post("/v1/batches", json={"users": [ann]})).json()["id"]
    await client.post(f"/v1/batches/{batch}/cancel")
    await client.post("/v1/traces/requeue", json={"user_id": ann})
    await client.post("/v1/adapters/user/ann/promote", json={"version": 7})
    found = await events(client)
    assert [of(event) for event in reversed(found)] == [
        ("local", "cohort.put", {"name": "tea"}, 200),
        ("local", "cohort.add_users", {"name": "tea", "users": ["ann"]}, 200),
        ("local", "profile.write", {"user_id": "ann", "version": 1}, 200),
        ("local", "batch.submit", {"users": ["ann"], "id": batch}, 201),
        ("local", "batch.cancel", {"batch_id": batch}, 200),
        ("local", "trace.requeue", {"user_id": "ann", "requeued": 0}, 200),
        ("local", "adapter.promote", {"kind": "user", "name": "ann", "version": 7}, 404),
    ]
    assert found[-2]["request_id"] == "r-7"
    assert "People" not in json.dumps(found)


async def test_reads_ingest_and_unknown_callers_are_not_recorded(client: httpx.AsyncClient, ann: str) -> None:
    headers = await admin_key(client)
    before = await events_with(client, headers)
    assert (await client.get("/v1/users", headers=headers)).status_code == 200
    body = {"engagements": [{"id": "e9", "prompt": "p", "response": "r", "occurred_at": "2026-01-01T00:00:00Z"}]}
    assert (await client.post(f"/v1/users/{ann}/engagements", json=body, headers=headers)).status_code == 200
    assert (await client.post("/v1/adapters/user/ann/rollback")).status_code == 401
    assert await events_with(client, headers) == before


async def test_a_key_and_a_refused_attempt_are_recorded_without_secrets(client: httpx.AsyncClient) -> None:
    headers = await admin_key(client)
    made = (await client.post("/v1/keys", json={"name": "app", "scopes": ["read"]}, headers=headers)).json()
    reader = {"Authorization": f"Bearer {made['key']}"}
    assert (await client.post("/v1/adapters/user/ann/rollback", headers=reader)).status_code == 403
    assert (await client.delete(f"/v1/keys/{made['key']}", headers=headers)).status_code == 404
    revoked, refused, created, first = await events_with(client, headers)
    assert of(refused) == (made["id"], "adapter.rollback", {"kind": "user", "name": "ann"}, 403)
    assert created["objects"] == {"scopes": ["read"], "id": made["id"]}
    assert created["actor"] == first["objects"]["id"]
    assert of(revoked)[1:] == ("key.revoke", {}, 404)
    await client.post("/v1/keys", json={"name": "blue", "scopes": ["admin"], "tenant": "blue"}, headers=headers)
    assert (await events_with(client, headers))[0]["objects"].items() >= {"scopes": ["admin"], "tenant": "blue"}.items()
    assert made["key"].rpartition("_")[2] not in json.dumps([revoked, refused, created, first])


async def admin_key(client: httpx.AsyncClient) -> dict[str, str]:
    made = await client.post("/v1/keys", json={"name": "root", "scopes": ["admin"]})
    return {"Authorization": f"Bearer {made.json()['key']}"}


async def events_with(client: httpx.AsyncClient, headers: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get("/v1/audit", headers=headers)).json()["events"]
    return found


async def test_nothing_changes_if_it_cannot_be_recorded(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch, error_of: ErrorOf
) -> None:
    async def busy(event: AuditEvent) -> None:
        raise StoreBusy("the database is away")

    monkeypatch.setattr(services.store.audit, "add", busy)
    refused = await client.put("/v1/cohorts/tea", json={})
    assert (refused.status_code, error_of(refused)["code"]) == (503, "store_busy")
    assert [cohort.name for cohort in await services.store.cohorts.list_page()] == ["everyone"]


async def test_a_change_stays_made_if_its_status_cannot_be_stored(
    client: httpx.AsyncClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(event: AuditEvent) -> None:
        raise StoreBusy("the database is away")

    monkeypatch.setattr(services.store.audit, "finish", busy)
    assert (await client.put("/v1/cohorts/tea", json={})).status_code == 200
    (event,) = await events(client)
    assert event["status"] is None
    failures = services.metrics.task_failures.labels(task="audit", reason="store_busy")
    assert failures._value.get() == 1


async def test_events_come_in_pages_and_by_filter(client: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c"):
        await client.put(f"/v1/cohorts/{name}", json={})
    page = (await client.get("/v1/audit", params={"limit": 2})).json()
    assert [event["objects"]["name"] for event in page["events"]] == ["c", "b"]
    rest = (await client.get("/v1/audit", params={"limit": 2, "after": page["next"]})).json()
    assert [event["objects"]["name"] for event in rest["events"]] == ["a"]
    assert rest["next"] is None
    assert len(await events(client, actor="local", action="cohort.put")) == 3
    assert await events(client, action="cohort.delete") == []
    assert await events(client, since=(datetime.now(UTC) + timedelta(days=1)).isoformat()) == []


async def test_the_same_events_are_lines_of_a_file(settings: Settings, services: Services, tmp_path: Path) -> None:
    file = tmp_path / "audit.ndjson"
    settings = settings.model_copy(update={"audit_file": file})
    supervisor = Supervisor(settings, lambda task, reason: None)
    services.audit = AuditLog(settings, store=services.store, supervisor=supervisor)
    transport = httpx.ASGITransport(create_app(settings, services=services))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        await client.put("/v1/cohorts/tea", json={})
        await client.delete("/v1/cohorts/coffee")
        listed = await events(client)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == list(reversed(listed))
    assert [line["status"] for line in lines] == [200, 404]
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_cannot_be_written_stops_no_change(
    settings: Settings, services: Services, tmp_path: Path
) -> None:
    reasons = []
    settings = settings.model_copy(update={"audit_file": tmp_path / "missing" / "audit.ndjson"})
    supervisor = Supervisor(settings, lambda task, reason: reasons.append((task, reason)))
    audit = AuditLog(settings, store=services.store, supervisor=supervisor)
    await audit.record(new_event("k1", "key.revoke", {}, status=200))
    assert reasons == [("audit file", "FileNotFoundError")]


@pytest.mark.parametrize(("keep_days", "left"), [(1.0, 1), (None, 2)])
async def test_old_events_are_removed(
    settings: Settings, services: Services, keep_days: float | None, left: int
) -> None:
    now = datetime.now(UTC)
    for age in (timedelta(hours=1), timedelta(hours=25)):
        await services.store.audit.add(new_event("k1", "key.revoke", {}, now=now - age))
    settings = settings.model_copy(update={"audit_keep_days": keep_days})
    audit = AuditLog(settings, store=services.store, supervisor=Supervisor(settings, lambda task, reason: None))
    assert await audit.remove_old(now=now)
    assert len(await services.store.audit.find()) == left


async def test_a_key_that_a_command_creates_is_recorded(settings: Settings) -> None:
    created = await create_admin_key(settings, "root", None)
    store = await Store.open(settings.url)
    (event,) = await store.audit.find()
    await store.close()
    assert of(event.model_dump()) == ("host", "key.create", {"id": created.id, "scopes": ["admin"]}, 201)


def test_only_ids_numbers_and_lists_of_ids_are_noted() -> None:
    key = f"mp_{'0' * 16}_{'s' * 43}"
    sent = {"a": "user/ann@7", "b": "a text", "c": key, "d": ["x", "a text", 1], "e": {"id": "x"}, "f": None, "g": 0.5}
    assert noted(sent) == {"a": "user/ann@7", "d": ["x"], "f": None, "g": 0.5}
    assert noted({"h": float("nan"), "i": -float("inf"), "j": 10**30, "k": True}) == {"k": True}
    assert noted({"users": [f"u{n}" for n in range(101)]}) == {
        "users": [f"u{n}" for n in range(100)],
        "users_count": 101,
    }


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object_has_no_fields(body: bytes) -> None:
    assert pick(body, ["id"]) == {}
