"""Streamed answers through a real nginx without any option for streams, on each of uvicorn's two protocols.

h11 closes the connection at the end of an HTTP/1.0 reply, as nginx asks for one: what broke off looks whole to nginx.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from chat_room import GOOD, PREFIX, Engine, Room, joined
from mindprint.local.processes import free_port
from mindprint_server.api.connections import bounded_connections
from mindprint_server.app import create_app
from mindprint_server.settings import Settings
from nginx import find_nginx, nginx
from samples import engagement
from scripted import serving

SILENCE_S, PATIENCE_S = 0.2, 2
PINGS = 15
"""Pings that take longer than the patience."""
BLOCK = """
server {{
    listen 127.0.0.1:{port};
    {patience}
    location / {{ proxy_pass http://127.0.0.1:{server}; }}
}}
"""
PATIENCES = {"default": "", "2 s": f"proxy_read_timeout {PATIENCE_S}s;"}
ASKED: dict[str, Any] = {
    "model": "user/ann",
    "mode": "personal",
    "stream": True,
    "messages": [{"role": "user", "content": "A walk?"}],
}


@dataclass(frozen=True)
class Proxied:
    """A chat service that can be held up, and a client that asks it through nginx."""

    room: Room
    http: httpx.AsyncClient

    def ask(self) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        return self.http.stream("POST", "/v1/chat/completions", json=ASKED)


@contextlib.asynccontextmanager
async def served(room: Room, protocol: type[asyncio.Protocol]) -> AsyncIterator[int]:
    """Serve the room's chat service on a protocol of uvicorn. Gives the port."""
    room.services.chat = room.chat
    settings = room.services.settings
    app = create_app(settings, services=room.services)
    http = bounded_connections(settings, app.state.metrics, protocol)
    config = uvicorn.Config(app, port=0, http=http, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving_task = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        room.engine.may_go_on.set()
        server.should_exit = True
        await serving_task


@pytest.fixture(params=[H11Protocol, HttpToolsProtocol])
def protocol(request: pytest.FixtureRequest) -> type[asyncio.Protocol]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=PATIENCES)
async def proxied(
    protocol: type[asyncio.Protocol], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Proxied]:
    find_nginx()
    model, folder, port = tmp_path / "model", tmp_path / "nginx", free_port()
    model.mkdir()
    folder.mkdir()
    (model / "config.json").write_text("{}")
    settings = Settings(data_dir=tmp_path / "data", engine="fake", stream_max_silence_s=SILENCE_S)
    async with AsyncExitStack() as stack:
        engine = Engine(model)
        services = await stack.enter_async_context(serving(settings, engine))
        await services.store.engagements.add("ann", [engagement(0)])
        room = Room(services, engine)
        server = await stack.enter_async_context(served(room, protocol))
        block = BLOCK.format(port=port, server=server, patience=PATIENCES[request.param])
        await stack.enter_async_context(nginx(folder, block, port))
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        yield Proxied(room, await stack.enter_async_context(client))


def events_in(text: str) -> list[dict[str, Any]]:
    """The events of a stream, without comments and its end."""
    found = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: {")]
    return [json.loads(data) for data in found]


async def test_stream_outlives_the_patience_of_a_proxy_and_arrives_while_it_is_written(proxied: Proxied) -> None:
    proxied.room.engine.may_go_on.clear()
    async with proxied.ask() as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-store"
        text, pieces = "", reply.aiter_text()
        while text.count(": ping") < PINGS:
            text += await anext(pieces)
        assert joined(events_in(text), "reasoning") == PREFIX + " they", "the thinking so far is here already"
        proxied.room.engine.may_go_on.set()
        text += "".join([piece async for piece in pieces])
    assert joined(events_in(text), "reasoning") == PREFIX + GOOD[0]
    assert joined(events_in(text), "content") == "base"
    assert text.endswith("data: [DONE]\n\n")


async def test_stream_that_breaks_off_says_so_in_its_last_event(proxied: Proxied) -> None:
    proxied.room.backend.cut = True
    async with proxied.ask() as reply:
        text = "".join([piece async for piece in reply.aiter_text()])
    assert events_in(text)[-1]["error"]["code"] == "internal_error"
    assert "[DONE]" not in text


async def test_request_that_is_refused_at_once_has_its_own_status(proxied: Proxied) -> None:
    reply = await proxied.http.post("/v1/chat/completions", json={**ASKED, "model": "user/nobody"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "user_not_found")
