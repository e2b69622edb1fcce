"""A batch whose database goes away meanwhile: it waits, and no error of the database reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from databases import POSTGRES, end_sessions, new_database
from mindprint.types import Batch, BatchRequest
from mindprint_server.app import create_app
from mindprint_server.settings import Settings
from mindprint_server.store import StoreBusy, StoreFailed
from mindprint_server.store.batches import DroppedResult, ItemResult
from mindprint_server.wiring import Services
from pooler import pooler
from samples import engagement
from scripted import Scripted, serving

FAST = {"retry_min_s": 0.01, "retry_max_s": 0.05, "probe_interval_s": 0.2, "candidates": 1}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    if POSTGRES == "off":
        pytest.skip("only PostgreSQL has sessions")
    async with new_database("postgresql", tmp_path) as url:
        yield url


async def submit(services: Services, count: int) -> Batch:
    await services.store.engagements.add("ann", [engagement(n) for n in range(count)])
    return (await services.batches.submit(BatchRequest()))[0]


async def end_of(services: Services, batch: Batch, meanwhile: Callable[[Batch], Awaitable[None]]) -> Batch:
    """The batch once it has ended. `meanwhile` gets each state before that. A caller who is told busy asks again."""
    async with asyncio.timeout(60):
        while True:
            try:
                batch = await services.store.batches.get(batch.id)
            except StoreBusy:
                await asyncio.sleep(0.05)
                continue
            if batch.state in ("done", "failed", "cancelled"):
                return batch
            await meanwhile(batch)


async def test_sessions_ended_again_and_again_do_not_fail_a_batch(
    settings: Settings, base_folder: Path, url: str
) -> None:
    settings = settings.model_copy(update={"database_url": SecretStr(url)})
    async with serving(settings, Scripted(folder=base_folder, delay_s=0.01)) as services:
        batch = await submit(services, 40)
        ended = 0

        async def end(batch: Batch) -> None:
            nonlocal ended
            if ended < 10:
                ended += 1
                await end_sessions(url)
            await asyncio.sleep(0.02)

        batch = await end_of(services, batch, end)
        assert ended >= 3
        assert (batch.state, batch.error, batch.done) == ("done", None, batch.items)
        traces = await services.store.traces.find(batch=batch.id, limit=1000)
        worked_on = batch.items - sum(batch.skipped.values())
        assert len({trace.engagement_id for trace in traces}) == len(traces) == worked_on, "none twice, none lost"
        assert set(batch.skipped) <= {"no_history"}


async def test_database_that_is_away_for_a_while_does_not_fail_a_batch(
    settings: Settings, base_folder: Path, url: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with AsyncExitStack() as second, AsyncExitStack() as stack, AsyncExitStack() as first:
        address = await first.enter_async_context(pooler(tmp_path, port=unused_tcp_port))
        settings = settings.model_copy(update={"database_url": SecretStr(url.replace(POSTGRES, address))})
        services = await stack.enter_async_context(serving(settings, Scripted(folder=base_folder, delay_s=0.01)))
        batch = await submit(services, 40)

        is_restarted = False

        async def restart(batch: Batch) -> None:
            nonlocal is_restarted
            if batch.done and not is_restarted:
                is_restarted = True
                await first.aclose()
                while "store" not in services.readiness.problems():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await second.enter_async_context(pooler(tmp_path, port=unused_tcp_port))
            await asyncio.sleep(0.02)

        batch = await end_of(services, batch, restart)
        assert is_restarted
        assert (batch.state, batch.error, batch.done) == ("done", None, batch.items)


@pytest.mark.parametrize("failing", ["read_user", "ensure", "finish_items", "list_open", "claim"])
async def test_store_that_is_busy_at_any_step_only_delays(
    failing: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, batches = services.batches, services.store.batches
    owners = {"read_user": runner._processor, "ensure": runner._profiles, "finish_items": batches}
    owner = owners.get(failing, services.store.batch_claims)
    works, times = getattr(owner, failing), 3

    async def busy(*args: Any, **kwargs: Any) -> Any:
        nonlocal times
        if times:
            times -= 1
            raise StoreBusy("the connection was lost")
        return await works(*args, **kwargs)

    batch = await submit(services, 8)
    monkeypatch.setattr(owner, failing, busy)

    async def nothing(batch: Batch) -> None:
        await asyncio.sleep(0.01)

    batch = await end_of(services, batch, nothing)
    assert (batch.state, batch.error, times) == ("done", None, 0)


async def test_statement_that_the_database_refuses_fails_the_batch_without_sql(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(done: Sequence[ItemResult], seconds: Any, *, owner: str | None = None) -> list[DroppedResult]:
        if done:
            raise StoreFailed("UniqueViolationError, SQLSTATE 23505")
        return []

    monkeypatch.setattr(services.store.batches, "finish_items", refuse)
    batch = await submit(services, 8)

    async def nothing(batch: Batch) -> None:
        await asyncio.sleep(0.01)

    batch = await end_of(services, batch, nothing)
    assert batch.state == "failed"
    assert batch.error == "StoreFailed: the database failed: UniqueViolationError, SQLSTATE 23505"


async def test_caller_in_a_storm_of_ended_sessions_is_answered_or_told_to_come_back(
    settings: Settings, base_folder: Path, url: str
) -> None:
    settings = settings.model_copy(update={"database_url": SecretStr(url)})
    async with serving(settings, Scripted(folder=base_folder)) as services:
        app = create_app(settings, services=services)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            body = {"engagements": [engagement(n).model_dump(mode="json") for n in range(3)]}
            calls = [client.post(f"/v1/users/u{n}/engagements", json=body) for n in range(30)]
            calls += [client.get("/v1/users") for _ in range(30)]
            answering = asyncio.gather(*calls)
            for _ in range(5):
                await end_sessions(url)
            answers = await answering
            assert {answer.status_code for answer in answers} <= {200, 503}
            for answer in answers:
                if answer.status_code == 503:
                    assert (answer.json()["error"]["code"], answer.headers["retry-after"]) == ("store_busy", "2")
                    assert "INSERT" not in answer.text
            assert (await client.get("/v1/users")).status_code == 200
