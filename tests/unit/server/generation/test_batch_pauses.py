"""Batches wait while their tenant or key is over its quota of generated tokens, and keep nobody else from working."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mindprint.types import Batch, BatchRequest, CreateApiKey
from mindprint_server.settings import Settings
from mindprint_server.sharing.quotas import in_key
from mindprint_server.tenancy import in_tenant
from mindprint_server.wiring import Services
from samples import engagement
from scripted import Scripted, serving

COUNT = 12


class Clock:
    """A clock of the quotas that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def services(settings: Settings, base_folder: Path, clock: Clock) -> AsyncIterator[Services]:
    """A server where acme may have 600 tokens a minute, and each key 60."""
    limited = settings.model_copy(
        update={
            "candidates": 1,
            "batch_poll_interval_s": 0.02,
            "plan_interval_s": 0.02,
            "max_num_seqs": 4,
            "batch_claim_ahead": 4,
            "batch_max_in_flight": 2,
            "quota_key_generated_tokens_per_minute": 60,
        }
    )
    limited = Settings.model_validate(
        limited.model_dump() | {"tenant_quotas": {"acme": {"generated_tokens_per_minute": 600}}}
    )
    async with serving(limited, Scripted(folder=base_folder)) as opened:
        opened.quotas._clock = clock
        for tenant in ("acme", "globex"):
            await opened.access.create(CreateApiKey(name="k", scopes=["read"], tenant=tenant))
            with in_tenant(tenant):
                await opened.store.engagements.add("ann", [engagement(n) for n in range(COUNT)])
        yield opened


async def submit(services: Services, tenant: str, *, key: str | None = None) -> Batch:
    with in_tenant(tenant), in_key(key):
        return (await services.batches.submit(BatchRequest()))[0]


async def batch_of(services: Services, tenant: str, id: str) -> Batch:
    with in_tenant(tenant):
        return await services.store.batches.get(id)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ends(services: Services, tenant: str, id: str) -> Batch:
    async def ended() -> bool:
        return (await batch_of(services, tenant, id)).finished_at is not None

    await until(ended)
    return await batch_of(services, tenant, id)


async def waits(services: Services, tenant: str, id: str) -> Batch:
    async def noted() -> bool:
        return (await batch_of(services, tenant, id)).waiting_for is not None

    await until(noted)
    return await batch_of(services, tenant, id)


async def test_running_batch_waits_while_its_tenant_is_over_its_quota_and_goes_on_after(
    services: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, begun, go = services.batches._processor.process, asyncio.Event(), asyncio.Event()

    async def process_when_told(*args: object, **kwargs: object) -> object:
        begun.set()
        await go.wait()
        return await process(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services.batches._processor, "process", process_when_told)
    batch = await submit(services, "acme")
    async with asyncio.timeout(10):
        await begun.wait()
    with in_tenant("acme"):
        services.quotas.count_tokens(1200)
    assert (await waits(services, "acme", batch.id)).state == "running"
    go.set()
    other = await submit(services, "globex")
    assert (await ends(services, "globex", other.id)).done == COUNT, "another tenant is not delayed"
    waiting = await batch_of(services, "acme", batch.id)
    assert waiting.waiting_for == (
        "the engine wrote 600 tokens a minute for tenant acme; raise generated_tokens_per_minute in "
        "tenant_quotas.acme for more"
    )
    assert waiting.done == 2, "what ran went on, nothing else began"
    clock.now += 120
    done = await ends(services, "acme", batch.id)
    assert (done.state, done.done, done.waiting_for) == ("done", COUNT, None)


async def test_nothing_of_a_batch_begins_while_its_key_is_over_its_quota(services: Services, clock: Clock) -> None:
    with in_tenant("acme"), in_key("one"):
        services.quotas.count_tokens(60)
    batch = await submit(services, "acme", key="one")
    waiting = await waits(services, "acme", batch.id)
    assert "60 tokens a minute for key one; raise quota_key_generated_tokens" in (waiting.waiting_for or "")
    other = await submit(services, "globex")
    await ends(services, "globex", other.id)
    waiting = await batch_of(services, "acme", batch.id)
    assert (waiting.state, waiting.done, waiting.funnel.generated) == ("queued", 0, 0)
    with in_tenant("acme"):
        assert await services.store.profiles.list_versions("ann") == []

    async def ended() -> bool:
        clock.now += 60
        return (await batch_of(services, "acme", batch.id)).state == "done"

    await until(ended)
    assert (await batch_of(services, "acme", batch.id)).done == COUNT


async def test_a_batch_counts_for_the_key_that_started_it(services: Services) -> None:
    batch = await submit(services, "globex", key="one")
    waiting = await waits(services, "globex", batch.id)
    assert "for key one" in (waiting.waiting_for or "")
    assert waiting.done < COUNT
