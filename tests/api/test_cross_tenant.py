"""Two teams with the same names on one server: neither sees, changes or guesses anything of the other's."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint_server.app import create_app
from mindprint_server.context import ServerContext
from mindprint_server.memory.neighbors import NeighborIndex, Neighbors
from mindprint_server.settings import Settings
from mindprint_server.tenancy import in_tenant
from samples import write_tensors
from two_tenants import ListeningEngine, Team, two_teams

ID_QUERIES = {"user", "engagement", "batch", "after"}
"""Query parameters that name a record."""
UNKNOWN = "nobody-0"


@dataclass(frozen=True)
class Route:
    """How a route is asked that takes ids.

    Attributes:
        ids: The ids in the path and in the query of a record of the first team's; `{trace}` stands for its trace.
        body: The JSON body; ids in it too.
        creates: Whether the route makes what does not exist yet, or finds nothing instead of refusing.
    """

    ids: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    creates: bool = False


USER = {"user_id": "ann"}
ADAPTER = {"kind": "user", "name": "ann"}
VERSION = ADAPTER | {"number": "1"}
ENGAGEMENT = {"id": "m0", "prompt": "p", "response": "yes", "occurred_at": "2026-01-01T00:00:00Z"}
IMPORT = {"engagement_id": "m0", "thinking": "because of it"}

ROUTES: dict[str, tuple[Route, ...]] = {
    "GET /v1/funnel": (Route({"user": "ann"}),),
    "GET /v1/keys": (Route({"after": "{key}"}),),
    "POST /v1/keys": (Route(body={"name": "k", "scopes": ["read"]}, creates=True),),
    "POST /v1/keys/{key_id}/rotate": (Route({"key_id": "{key}"}, {}),),
    "DELETE /v1/keys/{key_id}": (Route({"key_id": "{key}"}),),
    "GET /v1/users": (Route({"after": "ann"}, creates=True),),
    "GET /v1/users/{user_id}": (Route(USER),),
    "POST /v1/users/{user_id}/engagements": (Route(USER, {"engagements": [ENGAGEMENT]}, creates=True),),
    "GET /v1/users/{user_id}/engagements": (Route(USER), Route(USER | {"after": "m0"})),
    "GET /v1/users/{user_id}/profile": (Route(USER),),
    "POST /v1/users/{user_id}/profile": (Route(USER),),
    "GET /v1/users/{user_id}/auto-mode": (Route(USER),),
    "POST /v1/users/{user_id}/traces": (Route(USER, {"traces": [IMPORT]}),),
    "GET /v1/users/{user_id}/export": (Route(USER),),
    "DELETE /v1/users/{user_id}": (Route(USER),),
    "DELETE /v1/users/{user_id}/engagements": (Route(USER | {"after": "2026-01-01T00:00:00Z"}),),
    "DELETE /v1/users/{user_id}/engagements/{engagement_id}": (Route(USER | {"engagement_id": "m0"}),),
    "GET /v1/erasures": (Route({"after": "0"}, creates=True),),
    "GET /v1/erasures/{erasure_id}": (Route({"erasure_id": "{erasure}"}),),
    "GET /v1/audit": (Route({"after": "z"}, creates=True),),
    "GET /v1/cohorts": (Route({"after": "cooks"}, creates=True),),
    "GET /v1/cohorts/{name}": (Route({"name": "cooks"}),),
    "PUT /v1/cohorts/{name}": (Route({"name": "cooks"}, {}, creates=True),),
    "POST /v1/cohorts/{name}/users": (Route({"name": "cooks"}, {"users": ["{user}"]}),),
    "DELETE /v1/cohorts/{name}/users/{user_id}": (Route({"name": "cooks", "user_id": "bob"}),),
    "DELETE /v1/cohorts/{name}": (Route({"name": "cooks"}),),
    "POST /v1/traces": (
        Route(body={"user_id": "{user}", "query": "Tea?"}),
        Route(body={"user_id": "{user}", "engagement_id": "m0"}),
        Route(body={"user_id": "carl", "query": "Tea?", "memory": "user/{user}"}),
        Route(body={"user_id": "carl", "query": "Tea?", "model": "user/{user}@1"}),
        Route(body={"user_id": "carl", "query": "Tea?", "model": "cohort/{cohort}"}),
        Route(body={"user_id": "carl", "engagement_id": "{engagement}"}),
    ),
    "GET /v1/traces": tuple(
        Route({name: value}, creates=True)
        for name, value in (("user", "ann"), ("engagement", "m0"), ("batch", "{batch}"), ("after", "0"))
    ),
    "POST /v1/traces/requeue": (
        Route(body={"trace_ids": ["{trace}"]}, creates=True),
        Route(body={"user_id": "{user}"}),
    ),
    "GET /v1/traces/export": (Route({"user": "ann"}),),
    "GET /v1/traces/{trace_id}": (Route({"trace_id": "{trace}"}),),
    "GET /v1/batches": (Route({"after": "{batch}"}, creates=True),),
    "POST /v1/batches": (Route(body={"users": ["{user}"]}),),
    "GET /v1/batches/{batch_id}": (Route({"batch_id": "{batch}"}),),
    "POST /v1/batches/{batch_id}/cancel": (Route({"batch_id": "{batch}"}),),
    "GET /v1/batches/{batch_id}/events": (Route({"batch_id": "{batch}"}),),
    "GET /v1/batches/{batch_id}/results": (Route({"batch_id": "{batch}"}),),
    "POST /v1/leases": (Route(body={"owner": "o", "adapter": "user/{user}"}, creates=True),),
    "GET /v1/leases/{lease_id}": (Route({"lease_id": "{lease}"}),),
    "POST /v1/leases/{lease_id}/heartbeat": (Route({"lease_id": "{lease}"}, {}),),
    "POST /v1/leases/{lease_id}/release": (Route({"lease_id": "{lease}"}),),
    "POST /v1/leases/{lease_id}/complete": (Route({"lease_id": "{lease}"}),),
    "GET /v1/publications/{publication_id}": (Route({"publication_id": "{publication}"}),),
    "GET /v1/adapters": (Route({"after": "user/ann"}, creates=True),),
    "GET /v1/adapters/{kind}/{name}": (Route(ADAPTER), Route(ADAPTER | {"kind": "cohort", "name": "cooks"})),
    "POST /v1/adapters/{kind}/{name}/promote": (Route(ADAPTER, {"version": 1}), Route(ADAPTER, {"version": None})),
    "PUT /v1/adapters/{kind}/{name}/canary": (Route(ADAPTER, {"version": 1}), Route(ADAPTER, {"version": None})),
    "POST /v1/adapters/{kind}/{name}/rollback": (Route(ADAPTER),),
    "POST /v1/adapters/{kind}/{name}/versions": (Route(ADAPTER), Route(ADAPTER | {"kind": "cohort", "name": "cooks"})),
    "GET /v1/adapters/{kind}/{name}/versions/{number}": (Route(VERSION),),
    "GET /v1/adapters/{kind}/{name}/versions/{number}/lineage": (Route(VERSION),),
    "GET /v1/adapters/{kind}/{name}/versions/{number}/download": (Route(VERSION),),
    "POST /v1/adapters/{kind}/{name}/versions/{number}/pin": (Route(VERSION, {"pinned": True}),),
    "GET /v1/models": (Route({"after": "user/{user}@1"}, creates=True),),
    "GET /v1/models/{model}": tuple(
        Route({"model": model}) for model in ("user/{user}", "user/{user}@1", "cohort/{cohort}", "cohort/{cohort}@1")
    ),
    "POST /v1/completions": tuple(
        Route(body={"model": model, "prompt": "Tea?"})
        for model in ("user/{user}", "user/{user}@1", "cohort/{cohort}", "cohort/{cohort}@1")
    ),
    "POST /v1/responses": tuple(
        Route(body={"model": model, "input": "Tea?"})
        for model in ("user/{user}", "user/{user}@1", "cohort/{cohort}", "cohort/{cohort}@1")
    ),
    "POST /v1/chat/completions": tuple(
        Route(body={"model": model, "messages": [{"role": "user", "content": "Tea?"}]})
        for model in ("user/{user}", "user/{user}@1", "cohort/{cohort}", "cohort/{cohort}@1")
    ),
}
"""Every route that takes an id, in the path, the query or the body."""
WITHOUT_IDS = {
    *("GET /", "GET /version", "GET /health", "GET /livez", "GET /readyz", "GET /v1/info"),
    *("GET /metrics", "GET /v1/system", "GET /v1/keys/self"),
}
LISTS = ("keys", "users", "cohorts", "traces", "traces/export", "batches", "adapters", "models", "funnel", "erasures")
CASES = [(route, case) for route, cases in ROUTES.items() for case in cases]


def operations(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A base model of one layer, as far as shapes go."""
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    shapes: dict[str, tuple[int, ...]] = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}
    write_tensors(folder / "model.safetensors", shapes)
    return folder


@pytest.fixture
def settings(tmp_path: Path, base_folder: Path, empty_database: Path) -> Settings:
    data_dir = tmp_path / "server"
    data_dir.mkdir()
    shutil.copy(empty_database, data_dir)
    return Settings(
        engine="fake", model=str(base_folder), data_dir=data_dir, watch_interval_s=0.01, prefilter_by_prior=False,
        min_answer_frequency=0, gate=False,
    )  # fmt: skip


Teams = tuple[Team, Team, ListeningEngine]


@pytest.fixture
async def teams(settings: Settings, base_folder: Path) -> AsyncIterator[Teams]:
    """The first team has something of every kind, the second only the user carl, with fewer engagements."""
    async with two_teams(settings, base_folder) as (acme, globex, engine):
        await acme.fill(base_folder)
        for team in (acme, globex):
            await team.store_users("carl")
        await acme.post("/v1/users/carl/engagements", engagements=[ENGAGEMENT | {"id": "only"}])
        engine.forget()
        yield acme, globex, engine


def names_of(team: Team) -> dict[str, str]:
    """The ids of one record of each kind of a team."""
    ids = {"trace": team.trace, "batch": team.batch, "lease": team.lease, "key": team.key, "erasure": team.erasure}
    return ids | {"publication": team.publication, "user": "ann", "cohort": "cooks", "engagement": "only"}


async def ask(http: httpx.AsyncClient, route: str, case: Route, names: Mapping[str, str] | None) -> httpx.Response:
    """Ask a route with these ids; None: with ids that nobody has."""
    method, path = route.split()
    values = {name: text if names is None else _filled(text, names) for name, text in case.ids.items()}
    if names is None:
        fixed = {"kind", "number"}
        is_time = re.compile(r"\d{4}-\d\d-\d\dT.*").fullmatch
        values = {name: text if name in fixed or is_time(text) else _unknown(text) for name, text in values.items()}
    body = None if case.body is None else json.loads(_filled(json.dumps(case.body), names))
    query = {name: value for name, value in values.items() if f"{{{name}}}" not in path}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    async with asyncio.timeout(20):
        return await http.request(method, path, params=query, json=body)


def _unknown(text: str) -> str:
    return _filled(text, None) if "{" in text else UNKNOWN


def _filled(text: str, names: Mapping[str, str] | None) -> str:
    for name in ("trace", "batch", "lease", "publication", "key", "erasure", "user", "cohort", "engagement"):
        text = text.replace(f"{{{name}}}", UNKNOWN if names is None else names[name])
    return text


def without_ids(reply: httpx.Response, names: Mapping[str, str]) -> str:
    """The body with a mark in place of each id and time, to compare two refusals."""
    text = reply.text
    for value in sorted({UNKNOWN, *names.values(), "bob"}, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(value)}\b", "ID", text)
    return text


async def everything_of(team: Team) -> str:
    """All that a team's lists show, as text."""
    texts = [(await team.http.get(f"/v1/{path}")).text for path in LISTS]
    return re.sub(r'"last_used_at":("[^"]*"|null)', "", "\n".join(texts))


def test_every_route_that_takes_an_id_is_in_the_table(settings: Settings) -> None:
    stated = dict(operations(create_app(settings).openapi()))
    assert not ROUTES.keys() - stated.keys(), "a route is gone"
    assert stated.keys() == ROUTES.keys() | WITHOUT_IDS
    for route, operation in stated.items():
        parameters = {one["name"] for one in operation.get("parameters", ())}
        asked = {name for case in ROUTES.get(route, ()) for name in case.ids}
        named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert asked == named | (parameters & ID_QUERIES), route
        if "requestBody" in operation:
            assert route in ROUTES


async def test_another_team_s_id_is_answered_as_one_that_nobody_has(teams: Teams) -> None:
    acme, globex, engine = teams
    names, before = names_of(acme), await everything_of(acme)
    for route, case in sorted(CASES, key=lambda one: one[1].creates):
        theirs = await ask(globex.http, route, case, names)
        unknown = await ask(globex.http, route, case, None)
        assert theirs.status_code == unknown.status_code, (route, case)
        if not case.creates:
            assert theirs.status_code == 404, (route, case)
            assert without_ids(theirs, names) == without_ids(unknown, names), route
        assert acme.secret not in theirs.text + unknown.text + engine.asked(), (route, case)
    assert await everything_of(acme) == before
    for route, case in sorted(CASES, key=lambda one: one[0].startswith("DELETE")):
        found = await ask(acme.http, route, case, names)
        assert found.status_code != 404, (route, case, "the first team has what was asked for")


async def test_teams_with_the_same_names_read_and_change_their_own(teams: Teams, base_folder: Path) -> None:
    acme, globex, engine = teams
    before = await everything_of(acme)
    await globex.fill(base_folder)  # after the first team's, whose users are in the caches of the server
    assert globex.secret in engine.asked()
    assert acme.secret not in engine.asked()
    assert globex.batch != acme.batch, "the idempotency key is the team's own"
    theirs = {acme.secret, acme.trace, acme.batch, acme.lease, acme.key}
    for path in LISTS:
        shown = (await globex.http.get(f"/v1/{path}")).text
        assert len(shown) > 30, path
        assert not [one for one in theirs if one in shown], path
    for route, case in sorted(CASES, key=lambda one: one[0].startswith("DELETE")):
        own = await ask(globex.http, route, case, names_of(globex) | {"engagement": "m0"})
        assert own.status_code != 404, (route, case)
        assert not [one for one in theirs if one in own.text], (route, case)
    assert acme.secret not in engine.asked()
    assert await everything_of(acme) == before


async def test_what_is_cached_of_one_team_answers_no_other(teams: Teams) -> None:
    """Both teams have the users ann and bob; the first asks first, and again after the second."""
    acme, globex, engine = teams
    await globex.store_users("ann", "bob")
    asked: dict[str, list[str]] = {}
    for team in (acme, globex, acme):
        engine.forget()
        for body in (
            {"query": "Tea?", "memory": "user/bob", "seed": 1},
            {"query": "Tea?", "mode": "auto", "seed": 1},
            {"engagement_id": "m1", "seed": 1},
        ):
            await team.post("/v1/traces", user_id="ann", **body)
        for model in ("user/ann", "cohort/everyone"):
            await team.post("/v1/chat/completions", model=model, messages=[{"role": "user", "content": "Tea?"}])
        assert (await team.http.get("/v1/users/ann/auto-mode")).json()["model"] == (
            "user/ann@1" if team is acme else "base"
        )
        asked.setdefault(team.name, []).append(engine.asked())
    other = {"acme": globex.secret, "globex": acme.secret}
    for name, texts in asked.items():
        assert not [text for text in texts if other[name] in text], name
        assert all(own.secret in text for own in (acme, globex) if own.name == name for text in texts)


async def test_neighbors_are_of_the_same_tenant(teams: Teams) -> None:
    acme, globex, _ = teams
    services = acme.services
    index = NeighborIndex(ServerContext(services.settings, services.store, services.engine, services.metrics))
    with in_tenant(acme.name):
        assert (await index.get("carl")).nearest in ("ann", "bob")
    with in_tenant(globex.name):
        assert await index.get("carl") == Neighbors(None, None)


async def test_a_batch_that_one_team_watches_is_unknown_to_the_other(teams: Teams) -> None:
    acme, globex, _ = teams
    with in_tenant(acme.name):
        watched = acme.services.batches.watch(acme.batch)
        assert (await anext(watched)).id == acme.batch
    refused = await globex.http.get(f"/v1/batches/{acme.batch}/events")
    assert refused.status_code == 404
    with in_tenant(acme.name):
        await watched.aclose()


async def test_metrics_count_for_each_tenant(teams: Teams, base_folder: Path) -> None:
    acme, globex, _ = teams
    await globex.fill(base_folder)
    await globex.http.get("/v1/users/nobody")
    registry = acme.services.metrics.registry

    def counted(name: str, tenant: str, **labels: str) -> float:
        return registry.get_sample_value(f"mindprint_{name}_total", {"tenant": tenant, **labels}) or 0.0

    for team in (acme, globex):
        for name in ("traces_generated", "traces_imported", "traces_trained", "generated_tokens"):
            assert counted(name, team.name) > 0, (name, team.name)
        route = {"route": "/v1/users/{user_id}/engagements", "method": "POST", "status": "200"}
        assert counted("requests", team.name, **route) >= 2
    assert counted("refusals", "globex", code="user_not_found") == 1
    assert counted("refusals", "acme", code="user_not_found") == 0
    text = acme.services.metrics.render().decode()
    assert {name for name in re.findall(r'tenant="([^"]*)"', text)} <= {"", "acme", "globex", "default"}
    assert "ann" not in text


async def test_an_admin_of_one_team_sees_and_makes_keys_of_no_other(teams: Teams) -> None:
    _, globex, _ = teams
    assert {key["tenant"] for key in (await globex.http.get("/v1/keys")).json()["keys"]} == {"globex"}
    for tenant in ("acme", "default", "new"):
        body = {"name": "k", "scopes": ["read"], "tenant": tenant}
        refused = await globex.http.post("/v1/keys", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "other_tenant")
    assert (await globex.http.get("/metrics")).status_code == 403
