"""What `/readyz` says of the store, the disk and the background tasks of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.exc import DBAPIError

from mindprint.types import Batch, BatchRequest
from mindprint_server.adapters.artifact_owner import MARKER
from mindprint_server.app import create_app
from mindprint_server.exceptions import ArtifactUnavailable
from mindprint_server.operation import disk
from mindprint_server.operation.readiness import describe_low_disk
from mindprint_server.settings import Settings
from mindprint_server.store import StoreBusy
from mindprint_server.store.batch_claims import OpenBatch
from mindprint_server.wiring import Services
from samples import engagement
from scripted import Scripted, serving

SQL = "SELECT text FROM traces WHERE text = 'what Ann said'"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings under which all is tried again at once, and failing for any time counts."""
    fast = {"retry_min_s": 0.001, "retry_max_s": 0.01, "max_failing_s": 0, "probe_interval_s": 0.01}
    return settings.model_copy(update=fast)


@pytest.fixture
def http(services: Services, settings: Settings) -> httpx.AsyncClient:
    app = create_app(settings, services=services)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ready_when(http: httpx.AsyncClient, fits: Callable[[httpx.Response], bool]) -> httpx.Response:
    async with asyncio.timeout(10):
        while not fits(response := await http.get("/readyz")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return response


async def until_ready(http: httpx.AsyncClient) -> None:
    assert (await ready_when(http, lambda response: response.is_success)).json()["reasons"] == {}


async def end_of(services: Services) -> Batch:
    await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
    batch, _ = await services.batches.submit(BatchRequest())
    async with asyncio.timeout(10):
        async for state in services.batches.watch(batch.id):
            batch = state
    return batch


async def test_one_error_of_the_database_at_pick_up_only_delays(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, errors = services.store.batch_claims.list_open, [DBAPIError(SQL, None, Exception("odd"))]

    async def once() -> list[OpenBatch]:
        if errors:
            raise errors.pop()
        return await look()

    monkeypatch.setattr(services.store.batch_claims, "list_open", once)
    batch = await end_of(services)
    assert (batch.state, batch.error, errors) == ("done", None, [])


async def test_loop_that_keeps_failing_is_named_until_it_works_again(
    services: Services, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def always() -> list[OpenBatch]:
        raise DBAPIError(SQL, None, Exception("odd"))

    with monkeypatch.context() as broken:
        broken.setattr(services.store.batch_claims, "list_open", always)
        await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
        batch, _ = await services.batches.submit(BatchRequest())
        response = await ready_when(http, lambda response: response.status_code == 503)
        assert response.headers["retry-after"]
        told = response.json()
        assert (told["status"], told["reasons"]) == ("not_ready", {"batch claims": "DBAPIError"})
        assert (told["error"]["code"], "batch claims" in told["error"]["message"]) == ("not_ready", True)
        assert "Ann" not in response.text
        assert (await http.get("/v1/users")).status_code == 200, "what works goes on"
        counted = services.metrics.render().decode()
        assert 'mindprint_task_failures_total{reason="DBAPIError",task="batch claims"}' in counted
    await until_ready(http)
    async with asyncio.timeout(10):
        async for state in services.batches.watch(batch.id):
            batch = state
    assert batch.state == "done"


@pytest.mark.parametrize("error", [StoreBusy("the connection was lost"), TimeoutError()])
async def test_store_that_does_not_answer_is_named_until_it_does(
    error: Exception, services: Services, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> None:
        raise error

    await until_ready(http)
    with monkeypatch.context() as broken:
        broken.setattr(services.store, "ping", away)
        response = await ready_when(http, lambda response: response.status_code == 503)
        assert list(response.json()["reasons"]) == ["store"]
    await until_ready(http)


async def test_store_that_hangs_is_named_and_asked_once(
    settings: Settings, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings.model_copy(update={"probe_timeout_s": 0.02})
    async with serving(settings, Scripted(folder=base_folder)) as services:
        asked, answer = 0, asyncio.Event()

        async def hang() -> None:
            nonlocal asked
            asked += 1
            await answer.wait()

        monkeypatch.setattr(services.store, "ping", hang)
        await until(lambda: "store" in services.readiness.problems())
        await asyncio.sleep(0.1)
        assert asked == 1, "a ping that hangs holds a connection: no second one joins it"
        assert "has not answered for 0.02 s" in services.readiness.problems()["store"]
        answer.set()
        await until(lambda: not services.readiness.problems())


async def test_disk_below_the_bound_refuses_writes_and_reads_go_on(
    services: Services, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body: dict[str, Any] = {"engagements": [engagement(1).model_dump(mode="json")]}
    with monkeypatch.context() as full:
        full.setattr(disk, "free_bytes", lambda folder: 1000)
        response = await ready_when(http, lambda response: response.status_code == 503)
        assert "1000 bytes are free" in response.json()["reasons"]["disk"]
        for path, sent in (("/v1/users/ann/engagements", body), ("/v1/batches", {})):
            refused = await http.post(path, json=sent)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
            assert refused.headers["retry-after"]
            assert "free some space" in refused.json()["error"]["message"]
        assert (await http.get("/v1/users")).json()["users"] == []
    await until_ready(http)
    assert (await http.post("/v1/users/ann/engagements", json=body)).status_code == 200


async def test_refused_upload_says_what_is_wrong_with_the_artifact_store(services: Services) -> None:
    """It said that the store did not answer."""
    marker = services.settings.data_dir / "artifacts" / MARKER
    await services.readiness.probe_artifacts()
    marker.write_text("1" * 32)
    await services.readiness.probe_artifacts()
    with pytest.raises(ArtifactUnavailable, match=r"the upload cannot be stored .*it belongs to another database"):
        services.readiness.check_artifacts()


def test_low_disk_is_below_the_bound_only() -> None:
    assert describe_low_disk(100, 100) is None
    assert describe_low_disk(0, 0) is None
    assert "min_free_bytes (100)" in str(describe_low_disk(99, 100))
