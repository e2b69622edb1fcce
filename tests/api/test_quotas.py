"""Quotas over HTTP: what is refused, with which code, and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from mindprint.types import SCOPES, BatchRequest, CreateApiKey, LeaseRequest, Manifest, Trace
from mindprint_server.app import create_app
from mindprint_server.exceptions import LimitExceeded
from mindprint_server.settings import Settings
from mindprint_server.sharing.quotas import Quotas, StoredQuotas
from mindprint_server.store import ClaimPolicy
from mindprint_server.tenancy import in_tenant
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
CHAT = {"model": "base", "messages": [{"role": "user", "content": "Tea?"}]}
ENGAGEMENT = {"id": "e1", "prompt": "p", "response": "r", "occurred_at": "2026-01-01T00:00:00Z"}


def never() -> float:
    """A clock that stands still, so that no bucket refills."""
    return 0.0


@pytest.fixture
def open_as(settings: Settings, services: Services) -> Open:
    """Open a client with a new key of a tenant, on a server with these quotas."""

    @asynccontextmanager
    async def opened(tenant: str, **quotas: Any) -> AsyncIterator[httpx.AsyncClient]:
        if quotas:
            changed = Settings.model_validate(settings.model_dump() | quotas)
            services.quotas = Quotas(changed, retry_after_s=3, clock=never)
            services.stored_quotas = StoredQuotas(changed, services.store, clock=never)
        key = await services.access.create(CreateApiKey(name="k", scopes=list(SCOPES), tenant=tenant))
        transport = httpx.ASGITransport(create_app(settings, services=services))
        headers = {"Authorization": f"Bearer {key.key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
            yield client

    return opened


async def test_too_many_requests_of_one_tenant(open_as: Open, error_of: ErrorOf, services: Services) -> None:
    async with open_as("acme", quota_requests_per_minute=2) as acme, open_as("globex") as globex:
        assert [(await acme.get("/v1/users")).status_code for _ in range(2)] == [200, 200]
        refused = await acme.get("/v1/users")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_requests_per_minute")
        assert refused.headers["retry-after"] == "30"
        assert "raise quota_requests_per_minute" in error_of(refused)["message"]
        assert (await globex.get("/v1/users")).status_code == 200
        probes = [(await acme.get(path)).status_code for path in ("/livez", "/readyz")]
        assert probes == [200, 200]
    labels = {"tenant": "acme", "code": "quota_requests_per_minute"}
    assert services.metrics.registry.get_sample_value("mindprint_refusals_total", labels) == 1


async def test_metrics_are_never_limited(open_as: Open) -> None:
    async with open_as("default", quota_requests_per_minute=1) as operator:
        assert [(await operator.get("/metrics")).status_code for _ in range(4)] == [200] * 4
        assert [(await operator.get("/v1/info")).status_code for _ in range(2)] == [200, 429]


async def test_one_request_counts_once_and_a_quota_of_a_key_is_the_key_s(open_as: Open, services: Services) -> None:
    async with open_as("acme", quota_key_requests_per_minute=2) as one, open_as("acme") as two:
        body = {"user_id": "ann", "query": "Tea?"}
        assert [(await one.post("/v1/traces", json=body)).status_code for _ in range(3)] == [404, 404, 429]
        assert (await two.post("/v1/traces", json=body)).status_code == 404


async def test_a_stream_is_under_way_until_it_ends(open_as: Open, services: Services, error_of: ErrorOf) -> None:
    chat: Any = services.chat
    chat.waiting = asyncio.Event()
    async with open_as("acme", quota_running_requests=1) as acme, open_as("globex") as globex:
        held = asyncio.create_task(acme.post("/v1/chat/completions", json=CHAT))
        await chat.waiting.wait()
        refused = await acme.get("/v1/users")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_running_requests")
        assert refused.headers["retry-after"] == "3"
        assert (await globex.get("/v1/users")).status_code == 200
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        assert (await acme.get("/v1/users")).status_code == 200


async def test_over_the_quota_of_tokens_nothing_is_generated(
    open_as: Open, services: Services, error_of: ErrorOf
) -> None:
    async with open_as("acme", quota_generated_tokens_per_minute=60) as acme, open_as("globex") as globex:
        assert (await acme.post("/v1/chat/completions", json=CHAT)).status_code == 200
        with in_tenant("acme"):
            services.quotas.count_tokens(90)
        for path, body in (
            ("/v1/chat/completions", CHAT),
            ("/v1/traces", {"user_id": "ann", "query": "Tea?"}),
            ("/v1/batches", {}),
            ("/v1/users/ann/profile", None),
            ("/v1/users/ann/traces", {"traces": [{"engagement_id": "e1", "thinking": "because"}]}),
        ):
            refused = await acme.post(path, json=body)
            assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_generated_tokens_per_minute"), path
            assert refused.headers["retry-after"] == "31"
        assert (await acme.get("/v1/users")).status_code == 200
        assert (await globex.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_stored_engagements(open_as: Open, error_of: ErrorOf) -> None:
    async with open_as("acme", tenant_quotas={"acme": {"engagements": 2}}) as acme, open_as("globex") as globex:
        items = [ENGAGEMENT, ENGAGEMENT | {"id": "e2"}]
        assert (await acme.post("/v1/users/ann/engagements", json={"engagements": items})).status_code == 200
        more = {"engagements": [ENGAGEMENT | {"id": "e3"}]}
        refused = await acme.post("/v1/users/bob/engagements", json=more)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_engagements")
        assert "engagements in tenant_quotas.acme" in error_of(refused)["message"]
        assert (await acme.get("/v1/users/bob")).status_code == 404
        assert (await globex.post("/v1/users/bob/engagements", json=more)).status_code == 200


async def test_open_batches_of_all_tenants(services: Services) -> None:
    await services.access.create(CreateApiKey(name="k", scopes=["read"], tenant="acme"))
    add = services.store.batches.add
    first, _ = await add(BatchRequest(idempotency_key="k"), [], max_open=9, max_open_total=2)
    with in_tenant("acme"):
        await add(BatchRequest(), [], max_open=9, max_open_total=2)
        with pytest.raises(LimitExceeded) as refused:
            await add(BatchRequest(), [], max_open=9, max_open_total=2)
        assert refused.value.code == "server_queue_full"
    assert (await add(BatchRequest(idempotency_key="k"), [], max_open=9, max_open_total=2)) == (first, False)
    await services.store.batches.cancel(first.id)
    with in_tenant("acme"):
        await add(BatchRequest(), [], max_open=9, max_open_total=2)


async def test_uploads_and_adapters(
    open_as: Open,
    services: Services,
    traces: Callable[..., Trace],
    manifest: Callable[..., Manifest],
    ann: str,
    error_of: ErrorOf,
) -> None:
    async def claimed(user: str) -> str:
        await services.store.traces.add(traces(user, engagement_id="e1"))
        wanted = LeaseRequest(owner="t", adapter=f"user/{user}")
        lease = await services.store.leases.claim(wanted, ClaimPolicy(max_attempts=3))
        assert lease is not None
        return lease.id

    def form(user: str) -> dict[str, Any]:
        text = manifest(f"user/{user}").model_dump_json()
        files = {"config": ("adapter_config.json", b"{}"), "weights": ("adapter_model.safetensors", b"x" * 100_000)}
        return {"data": {"manifest": text}, "files": files}

    await services.store.engagements.add("bob", (await services.store.engagements.list_page("ann"))[:2])
    async with open_as("default", quota_adapters=1, quota_upload_bytes_per_minute=150_000) as client:
        path = f"/v1/leases/{await claimed('ann')}/complete"
        assert (await client.post(path, **form("ann"))).status_code == 202
        refused = await client.post(f"/v1/leases/{await claimed('bob')}/complete", **form("bob"))
        assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_adapters")
        again = f"/v1/leases/{await claimed('ann')}/complete"
        assert (await client.post(again, **form("ann"))).status_code == 202, "an adapter that exists"
        refused = await client.post(f"/v1/leases/{await claimed('ann')}/complete", **form("ann"))
        assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_upload_bytes_per_minute")
    assert not await services.stored_quotas.may_add_adapter()


async def test_imports_count_as_uploads_and_adapters(
    open_as: Open, services: Services, manifest: Callable[..., Manifest], ann: str, error_of: ErrorOf
) -> None:
    def form(user: str) -> dict[str, Any]:
        text = manifest(f"user/{user}").model_dump_json()
        files = {"config": ("adapter_config.json", b"{}"), "weights": ("adapter_model.safetensors", b"x" * 100_000)}
        return {"data": {"manifest": text}, "files": files}

    await services.store.engagements.add("bob", (await services.store.engagements.list_page("ann"))[:2])
    async with open_as("default", quota_adapters=1, quota_upload_bytes_per_minute=150_000) as client:
        assert (await client.post("/v1/adapters/user/ann/versions", **form("ann"))).status_code == 202
        refused = await client.post("/v1/adapters/user/bob/versions", **form("bob"))
        assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_adapters")
        assert (await client.post("/v1/adapters/user/ann/versions", **form("ann"))).status_code == 202
        refused = await client.post("/v1/adapters/user/ann/versions", **form("ann"))
        assert (refused.status_code, error_of(refused)["code"]) == (429, "quota_upload_bytes_per_minute")


async def test_callers_without_a_key_make_no_series(client: httpx.AsyncClient, open_as: Open) -> None:
    async with open_as("default") as operator:
        for name in ("evil", "acme"):
            await client.get("/v1/users", headers={"Authorization": f"Bearer {name}", "X-Tenant": name})
        text = (await operator.get("/metrics")).text
    assert 'tenant="evil"' not in text
    assert 'tenant="acme"' not in text
