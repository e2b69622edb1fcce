"""Keys and scopes over HTTP, and what a server without keys refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, params
from fastapi.routing import APIRoute
from pydantic import SecretStr

from mindprint.types import SCOPES, Scope
from mindprint_server import api
from mindprint_server.access import AccessControl
from mindprint_server.api.access import AccessRoute
from mindprint_server.app import create_app
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
WITHOUT_KEY = {"/", "/version", "/health", "/livez", "/readyz"}
ADMIN_KEY = "a-bootstrap-key-of-at-least-32-characters"


@pytest.fixture
async def admin(client: httpx.AsyncClient) -> dict[str, str]:
    """The headers of an admin. With this first key the server is closed."""
    return await new_key(client, {}, "admin")


async def new_key(client: httpx.AsyncClient, admin: dict[str, str], *scopes: Scope, **more: Any) -> dict[str, str]:
    made = await client.post("/v1/keys", json={"name": "k", "scopes": scopes, **more}, headers=admin)
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


def operations(app: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def scopes_of(operation: dict[str, Any]) -> list[str]:
    """The scopes of which one is needed, as the schema states them."""
    (requirement,) = operation.get("security", [{}])
    return list(requirement.get("ApiKey", []))


# --- without keys ---


@pytest.mark.parametrize("host", ["127.0.0.1:8300", "localhost", "[::1]:8300", "LOCALHOST:1"])
async def test_open_server_answers_names_of_loopback(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/v1/users", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8300",
        "",
        "[",
        "evil.com@localhost",
        "localhost#evil.com",
        "localhost/evil",
        "localhost:abc",
        "localhost:999999",
    ],
)
async def test_open_server_refuses_other_hosts(client: httpx.AsyncClient, host: str, error_of: ErrorOf) -> None:
    refused = await client.get("/v1/users", headers={"Host": host})
    assert (refused.status_code, error_of(refused)["code"]) == (421, "foreign_host")


async def test_open_server_answers_hosts_that_are_allowed(
    settings: Settings, services: Services, error_of: ErrorOf
) -> None:
    app = create_app(settings.model_copy(update={"allowed_hosts": ("Gateway.internal",)}), services=services)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.internal:9000") as client:
        assert (await client.get("/v1/users")).status_code == 200
        assert (await client.get("/v1/users", headers={"Host": "other.internal"})).status_code == 421


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost", "http://[::1", ""]
)
async def test_open_server_refuses_pages_of_other_sites(
    client: httpx.AsyncClient, origin: str, error_of: ErrorOf
) -> None:
    for path in ("/v1/adapters/user/ann/rollback", "/v1/users/ann/profile"):
        refused = await client.post(path, headers={"Origin": origin})
        assert (refused.status_code, error_of(refused)["code"]) == (403, "foreign_origin")


async def test_open_server_refuses_two_hosts(client: httpx.AsyncClient) -> None:
    headers = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    assert (await client.get("/v1/users", headers=headers)).status_code == 421


async def test_open_server_answers_its_own_page(client: httpx.AsyncClient) -> None:
    own = {"Host": "127.0.0.1:8300", "Origin": "http://127.0.0.1:8300"}
    assert (await client.get("/v1/users", headers=own)).status_code == 200


async def test_first_key_must_be_an_admin_s(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    refused = await client.post("/v1/keys", json={"name": "app", "scopes": ["infer", "read"]})
    assert (refused.status_code, error_of(refused)["code"]) == (422, "first_key_is_admin")
    assert (await client.get("/v1/users")).status_code == 200


# --- with keys ---


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer mp_0123456789abcdef_" + "A" * 43},
        {"Authorization": "Basic bXA6bXA="},
        {"Authorization": "Bearer "},
    ],
    ids=["none", "nonsense", "unknown", "basic", "empty"],
)
async def test_without_a_valid_key_every_route_is_401(
    app: FastAPI, client: httpx.AsyncClient, admin: dict[str, str], headers: dict[str, str], error_of: ErrorOf
) -> None:
    for method, path, _ in operations(app):
        if path not in WITHOUT_KEY:
            refused = await client.request(method, fill(path), headers=headers)
            assert refused.status_code == 401, path
            assert error_of(refused)["code"] == "invalid_api_key"
            assert refused.headers["WWW-Authenticate"] == "Bearer"


async def test_the_key_is_checked_before_the_body_is_read(app: FastAPI, admin: dict[str, str]) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was asked for")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"900")]
    for path in ("/v1/batches", "/v1/keys", "/v1/traces", "/v1/users/ann/engagements"):
        sent.clear()
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path,
                 "raw_path": path.encode(), "query_string": b"", "headers": headers, "scheme": "http",
                 "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": ""}  # fmt: skip
        await app(scope, receive, send)
        assert sent[0]["status"] == 401


async def test_probes_need_no_key(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    assert [(await client.get(path)).status_code for path in sorted(WITHOUT_KEY)] == [200] * 5


def test_every_route_with_scopes_checks_the_key_before_the_body() -> None:
    guarded = [
        route
        for route in api.router.routes
        if isinstance(route, APIRoute) and any(isinstance(needed, params.Security) for needed in route.dependencies)
    ]
    assert len(guarded) > 40
    assert [route.path for route in guarded if not isinstance(route, AccessRoute)] == []


def test_every_route_states_its_scopes(app: FastAPI) -> None:
    stated = {f"{method} {path}": scopes_of(operation) for method, path, operation in operations(app)}
    assert {route.split()[1] for route, scopes in stated.items() if not scopes} == WITHOUT_KEY
    assert {scope for scopes in stated.values() for scope in scopes} == set(SCOPES)


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_opens_the_routes_of_its_scope_only(
    app: FastAPI, client: httpx.AsyncClient, admin: dict[str, str], scope: Scope, error_of: ErrorOf
) -> None:
    headers = await new_key(client, admin, scope)
    for method, path, operation in operations(app):
        if path in WITHOUT_KEY or path.endswith("/events"):
            continue
        answer = await client.request(method, fill(path), headers=headers)
        if scope == "admin" or scope in scopes_of(operation):
            assert answer.status_code not in (401, 403), (method, path)
        else:
            assert (answer.status_code, error_of(answer)["code"]) == (403, "missing_scope"), (method, path)


def fill(path: str) -> str:
    """A path with names for its parameters; nothing has these names."""
    path = path.replace("{kind}", "user").replace("{number}", "1")
    return re.sub(r"\{\w+\}", "nobody", path)


async def test_another_user_s_memory_needs_admin(
    client: httpx.AsyncClient, admin: dict[str, str], ann: str, error_of: ErrorOf
) -> None:
    infer = await new_key(client, admin, "infer")
    body = {"user_id": ann, "query": "Tea?", "memory": "user/bob"}
    refused = await client.post("/v1/traces", json=body, headers=infer)
    assert (refused.status_code, error_of(refused)["param"]) == (403, "memory")
    for headers, memory in ((infer, "own"), (infer, "none"), (admin, "user/bob")):
        assert (await client.post("/v1/traces", json=body | {"memory": memory}, headers=headers)).status_code == 200


async def test_a_revoked_key_is_refused_at_once(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    made = (await client.post("/v1/keys", json={"name": "app", "scopes": ["read"]}, headers=admin)).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert (await client.get("/v1/users", headers=headers)).status_code == 200
    gone = (await client.delete(f"/v1/keys/{made['id']}", headers=admin)).json()
    assert gone["revoked_at"] is not None
    assert (await client.get("/v1/users", headers=headers)).status_code == 401
    again = (await client.delete(f"/v1/keys/{made['id']}", headers=admin)).json()
    assert again == gone


async def test_rotation_keeps_both_keys_for_a_while(client: httpx.AsyncClient, admin: dict[str, str]) -> None:
    made = (await client.post("/v1/keys", json={"name": "app", "scopes": ["read"]}, headers=admin)).json()
    new = (await client.post(f"/v1/keys/{made['id']}/rotate", json={"keep_old_s": 60}, headers=admin)).json()
    assert (new["name"], new["scopes"], new["expires_at"]) == ("app", ["read"], None)
    for key in (made["key"], new["key"]):
        assert (await client.get("/v1/users", headers={"Authorization": f"Bearer {key}"})).status_code == 200
    await client.post(f"/v1/keys/{new['id']}/rotate", json={"keep_old_s": 0}, headers=admin)
    assert (await client.get("/v1/users", headers={"Authorization": f"Bearer {new['key']}"})).status_code == 401


async def test_an_ended_key_cannot_be_rotated(
    client: httpx.AsyncClient, admin: dict[str, str], error_of: ErrorOf
) -> None:
    made = (await client.post("/v1/keys", json={"name": "app", "scopes": ["read"]}, headers=admin)).json()
    await client.delete(f"/v1/keys/{made['id']}", headers=admin)
    refused = await client.post(f"/v1/keys/{made['id']}/rotate", json={}, headers=admin)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "key_ended")


async def test_keys_are_listed_without_their_text(
    client: httpx.AsyncClient, admin: dict[str, str], services: Services
) -> None:
    assert (await client.get("/v1/users", headers=admin)).status_code == 200
    await services.access.stop()
    listed = await client.get("/v1/keys", headers=admin)
    (key,) = listed.json()["keys"]
    assert set(key) == {*("id", "tenant", "name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")}
    assert key["last_used_at"] is not None
    assert admin["Authorization"].split("_")[-1] not in listed.text


@pytest.mark.parametrize("path", ["/v1/keys/nobody", "/v1/keys/0123456789abcdef"])
async def test_unknown_keys(client: httpx.AsyncClient, admin: dict[str, str], path: str, error_of: ErrorOf) -> None:
    refused = await client.delete(path, headers=admin)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "k", "scopes": []},
        {"name": "k", "scopes": ["root"]},
        {"name": "", "scopes": ["read"]},
        {"name": "k", "scopes": ["read"], "expires_in_s": 0},
        {"name": "k", "scopes": ["read"], "expires_in_s": 1e300},
        {"name": "k" * 65, "scopes": ["read"]},
    ],
)
async def test_bad_keys(client: httpx.AsyncClient, admin: dict[str, str], body: dict[str, Any]) -> None:
    assert (await client.post("/v1/keys", json=body, headers=admin)).status_code == 422


async def test_the_schema_may_be_switched_off(settings: Settings, services: Services) -> None:
    app = create_app(settings.model_copy(update={"openapi": False}), services=services)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        assert [(await client.get(path)).status_code for path in ("/docs", "/openapi.json")] == [404, 404]


async def test_a_key_sees_itself(client: httpx.AsyncClient, admin: dict[str, str], error_of: ErrorOf) -> None:
    own = await client.get("/v1/keys/self", headers=await new_key(client, admin, "infer"))
    assert (own.status_code, own.json()["scopes"]) == (200, ["infer"])
    assert (await client.get("/v1/keys/self")).status_code == 401


async def test_without_keys_nobody_has_one(client: httpx.AsyncClient, error_of: ErrorOf) -> None:
    reply = await client.get("/v1/keys/self")
    assert (reply.status_code, error_of(reply)["code"]) == (404, "no_keys")


@pytest.mark.parametrize("text", ["a.example,b.example", " a.example , b.example,", '["a.example", "b.example"]'])
def test_allowed_hosts_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MINDPRINT_ALLOWED_HOSTS", text)
    assert Settings().allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize("text", ["a.example;b.example", '["a.example"', "[1]"])
def test_a_wrong_list_of_hosts_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MINDPRINT_ALLOWED_HOSTS", text)
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings()


# --- the key in the settings ---


async def test_the_admin_key_of_the_settings_closes_the_server(settings: Settings, services: Services) -> None:
    services.access = AccessControl(settings.model_copy(update={"admin_key": SecretStr(ADMIN_KEY)}), services.store)
    transport = httpx.ASGITransport(create_app(settings, services=services))
    async with httpx.AsyncClient(transport=transport, base_url="https://mindprint.example") as client:
        assert (await client.get("/v1/users")).status_code == 401
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        assert (await client.get("/v1/users", headers=headers)).status_code == 200
        assert (await client.get("/v1/users", headers=await new_key(client, headers, "read"))).status_code == 200


@pytest.mark.parametrize(
    "key", ["short", "k" * 31, "k" * 257, "k" * 32 + " ", "\N{LATIN SMALL LETTER E WITH ACUTE}" * 40]
)
def test_an_admin_key_that_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="32 to 256 ASCII characters"):
        Settings(admin_key=key)


def test_an_empty_admin_key_is_none() -> None:
    assert Settings(admin_key="").admin_key is None
