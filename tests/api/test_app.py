"""From the first moment to the last: starting, ready, dead, closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mindprint_server import app as module
from mindprint_server.app import create_app
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services

ErrorOf = Callable[[httpx.Response], dict[str, Any]]
StartServices = Callable[[Settings], Coroutine[Any, Any, Services]]


class Opening:
    """Stands for `open_services`: tells a phase and waits to be told how it ends."""

    def __init__(self, start: StartServices) -> None:
        self.start = start
        self.go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = 0
        self.cancelled = False

    async def open(self, settings: Settings, *, metrics: Metrics, progress: Callable[[str], None]) -> Services:
        progress("loading weights")
        try:
            await self.go
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return await self.start(settings)

    async def close(self, services: Services) -> None:
        self.closed += 1
        await services.store.close()


@pytest.fixture
async def opening(start_services: StartServices, monkeypatch: pytest.MonkeyPatch) -> Opening:
    opening = Opening(start_services)
    monkeypatch.setattr(module, "open_services", opening.open)
    monkeypatch.setattr(module, "close_services", opening.close)
    return opening


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


async def until(client: httpx.AsyncClient, status: str) -> httpx.Response:
    async with asyncio.timeout(5):
        while True:
            response = await client.get("/readyz")
            if response.json()["status"] == status:
                return response
            await asyncio.sleep(0.01)


async def test_the_phases_of_a_server(
    opening: Opening, app: FastAPI, client: httpx.AsyncClient, error_of: ErrorOf
) -> None:
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0)
        assert (await client.get("/livez")).status_code == 200
        starting = await until(client, "starting")
        assert (starting.status_code, starting.json()["phase"]) == (503, "loading weights")
        assert (await client.get("/metrics")).status_code == 200
        for method, path in (("GET", "/v1/info"), ("GET", "/v1/users"), ("POST", "/v1/chat/completions")):
            early = await client.request(method, path, json={} if method == "POST" else None)
            assert (early.status_code, error_of(early)["code"]) == (503, "engine_starting")
            assert "loading weights" in early.text
            assert early.headers["retry-after"] == "2"

        opening.go.set_result(None)
        assert (await until(client, "ready")).status_code == 200
        assert (await client.get("/v1/users")).status_code == 200

        app.state.server.services.engine.dead.set()
        assert (await until(client, "dead")).status_code == 503
        late = await client.get("/v1/users")
        assert (late.status_code, error_of(late)["code"]) == (503, "engine_dead")
        async with asyncio.timeout(5):
            await app.state.server.failed.wait()
        assert app.state.server.failure == "the engine died"
    assert opening.closed == 1
    await app.state.server.close()
    assert opening.closed == 1


async def test_a_start_that_fails(opening: Opening, app: FastAPI, client: httpx.AsyncClient) -> None:
    opening.go.set_exception(RuntimeError("no such\n  model"))
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(5):
            await app.state.server.failed.wait()
        assert (await until(client, "dead")).status_code == 503
    assert app.state.server.failure == "start-up failed while loading weights: no such model"


async def test_closing_while_it_starts(opening: Opening, app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0.01)
    assert (opening.cancelled, opening.closed) == (True, 0)


async def test_services_of_the_caller_stay_open(settings: Settings, services: Services) -> None:
    app = create_app(settings, services=services)
    async with app.router.lifespan_context(app):
        pass
    assert await services.store.users.list_page() == []
