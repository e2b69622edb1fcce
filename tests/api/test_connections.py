"""Slow and many connections, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO, Any, cast

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol

from mindprint_server import process
from mindprint_server.adapters import storage
from mindprint_server.api.connections import bounded_connections
from mindprint_server.settings import Settings

Serve = Callable[..., AbstractAsyncContextManager[int]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET /v1/users HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HEADERS = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
POST = b"POST /v1/users/ann/engagements HTTP/1.1\r\n" + HEADERS
NOWHERE = b"POST /nowhere HTTP/1.1\r\n" + HEADERS


@pytest.fixture(params=[AutoHTTPProtocol, H11Protocol])
def serve(app: FastAPI, settings: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serves the application on each of uvicorn's protocols, with some limits changed. Gives the port."""

    @asynccontextmanager
    async def open(**limits: Any) -> AsyncIterator[int]:
        for name, value in limits.items():
            monkeypatch.setattr(settings, name, value)
        http = bounded_connections(settings, app.state.metrics, request.param)
        config = uvicorn.Config(app, port=0, http=http, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        monkeypatch.setattr(server, "capture_signals", contextlib.nullcontext)
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
                await asyncio.sleep(0.01)
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            await serving

    return open


async def _connect(port: int) -> Streams:
    return await asyncio.open_connection("127.0.0.1", port)


async def _read(streams: Streams) -> bytes:
    """All that arrives until the server closes the connection.

    What was sent last is lost if the caller was still sending: the system then resets the connection.
    """
    reader, writer = streams
    taken = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            while chunk := await reader.read(4096):
                taken += chunk
    writer.close()
    return taken


async def _dribble(streams: Streams, text: bytes, pause_s: float = 0.05) -> None:
    """Send a byte at a time, for ever."""
    with contextlib.suppress(ConnectionError):
        for position in range(10_000):
            streams[1].write(text[position : position + 1] or b"x")
            await streams[1].drain()
            await asyncio.sleep(pause_s)


async def _answer_to_dribbles(port: int, text: bytes, before: bytes = b"") -> tuple[bytes, float]:
    streams = await _connect(port)
    streams[1].write(before)
    dribbling, began = asyncio.create_task(_dribble(streams, text)), time.monotonic()
    answer = await _read(streams)
    dribbling.cancel()
    await asyncio.gather(dribbling, return_exceptions=True)
    return answer, time.monotonic() - began


async def test_dribbled_headers_are_cut_off(serve: Serve, app: FastAPI) -> None:
    async with serve(header_timeout_s=0.5) as port:
        answers = await asyncio.gather(*(_answer_to_dribbles(port, b"GET / HTTP/1.1\r\nX-A: ") for _ in range(20)))
    assert {answer[:13] for answer, _ in answers} <= {b"HTTP/1.1 408 ", b""}
    assert _count(app, "header_timeout") == 20


async def test_silent_connection_is_closed(serve: Serve) -> None:
    async with serve(header_timeout_s=0.2) as port:
        assert (await _read(await _connect(port))).startswith(b"HTTP/1.1 408 ")


async def test_dribbled_second_request_is_cut_off(serve: Serve, app: FastAPI) -> None:
    async with serve(header_timeout_s=0.5) as port:
        answer, _ = await _answer_to_dribbles(port, b"GET / HTTP/1.1\r\nX-A: ", before=LIVE)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert _count(app, "header_timeout") == 1


async def test_dribbled_body_is_cut_off_as_a_whole(serve: Serve, app: FastAPI) -> None:
    async with serve(request_timeout_s=0.5) as port:
        _, seconds = await _answer_to_dribbles(port, b"{", before=POST)
    assert _count(app, "body_timeout") == 1
    assert seconds < 10


async def test_dribbled_body_of_an_answered_request_is_cut_off(serve: Serve) -> None:
    async with serve(request_timeout_s=0.5, header_timeout_s=0.2) as port:
        answer, seconds = await _answer_to_dribbles(port, b"{", before=NOWHERE)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert seconds < 10, "500 bytes would take 25 s"


async def test_endless_headers_are_refused(serve: Serve) -> None:
    async with serve() as port:
        streams = await _connect(port)
        streams[1].write(b"GET / HTTP/1.1\r\n")
        for _ in range(20):
            streams[1].write(b"X-A: " + b"a" * 8000 + b"\r\n")
            with contextlib.suppress(ConnectionError):
                await streams[1].drain()
        assert (await _read(streams))[:13] in (b"HTTP/1.1 431 ", b"HTTP/1.1 400 ", b"")


async def test_answers_may_take_longer_than_headers(serve: Serve, app: FastAPI) -> None:
    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.5)
        return "done"

    async with serve(header_timeout_s=0.2) as port:
        streams = await _connect(port)
        streams[1].write(b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert (await _read(streams)).endswith(b'"done"')


async def test_connections_above_the_bound_get_503_and_health_checks_pass(serve: Serve, app: FastAPI) -> None:
    async with serve(max_connections=3) as port:
        idle = [await _connect(port) for _ in range(3)]
        for streams in idle:
            streams[1].write(LIVE)
            await streams[0].readuntil(b"\r\n")
        above = await _connect(port)
        above[1].write(LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await _read(above)).startswith(b"HTTP/1.1 200 ")
        above = await _connect(port)
        above[1].write(GET)
        answer = await _read(above)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 2" in answer.lower()
        assert b"x-should-retry: true" in answer.lower()
        assert b"too_many_connections" in answer
        for streams in idle:
            streams[1].close()
        async with asyncio.timeout(10):
            while b" 503 " in (answer := await _once(port, GET)):
                pass
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert _count(app, "too_many_connections") >= 1


async def _once(port: int, request: bytes) -> bytes:
    streams = await _connect(port)
    streams[1].write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    return await _read(streams)


async def test_connections_above_twice_the_bound_are_closed_at_once(serve: Serve) -> None:
    async with serve(max_connections=2) as port:
        held = [await _connect(port) for _ in range(4)]
        for streams in held:
            streams[1].write(LIVE)
            await streams[0].readuntil(b"\r\n")
        assert await _read(await _connect(port)) == b""
        for streams in held:
            streams[1].close()


class Download:
    """A route that sends a file larger than what the system takes for a reader, and what is known of it."""

    def __init__(self, app: FastAPI, folder: Path) -> None:
        self.file = (folder / "weights").open("w+b")
        self.file.write(bytes(64 * 1024 * 1024))
        self.ended = asyncio.Event()

        @app.get("/download")
        async def download() -> StreamingResponse:
            return StreamingResponse(self.chunks())

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in storage.read_chunks(cast("IO[bytes]", self.file)):
                yield chunk
        finally:
            self.ended.set()


@pytest.fixture
def download(app: FastAPI, tmp_path: Path) -> Download:
    return Download(app, tmp_path)


async def _ask(port: int) -> Streams:
    streams = await _connect(port)
    streams[1].write(b"GET /download HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await streams[0].readuntil(b"200 OK")
    return streams


async def test_download_whose_reader_takes_nothing_is_ended_and_its_file_closed(
    serve: Serve, app: FastAPI, download: Download
) -> None:
    async with serve(stream_max_stall_s=0.2) as port:
        _, writer = await _ask(port)
        async with asyncio.timeout(20):
            await download.ended.wait()
        writer.close()
    assert download.file.closed
    assert _count(app, "reader_stalled") == 1


async def test_download_whose_reader_takes_little_is_ended_as_a_whole(
    serve: Serve, app: FastAPI, download: Download
) -> None:
    async with serve(stream_max_stall_s=60, download_timeout_s=0.5) as port:
        reader, writer = await _ask(port)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while await reader.read(2**16):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(20):
            await download.ended.wait()
        writer.close()
    assert download.file.closed
    assert _count(app, "reader_stalled") == 1


async def test_reader_that_keeps_up_is_not_cut_off(serve: Serve, app: FastAPI) -> None:
    """The reply lasts longer than both bounds."""

    async def ticks() -> AsyncIterator[bytes]:
        for _ in range(30):
            await asyncio.sleep(0.02)
            yield b"." * 2**10

    app.get("/ticks")(lambda: StreamingResponse(ticks()))
    async with serve(stream_max_stall_s=0.3, download_timeout_s=0.3) as port:
        answer = await _once(port, GET.replace(b"/v1/users", b"/ticks"))
    assert answer.count(b".") > 30 * 2**10 - 1
    assert _count(app, "reader_stalled") == 0


def test_process_bounds_its_connections(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[uvicorn.Config] = []

    async def serve(server: uvicorn.Server, sockets: object) -> None:
        built.append(server.config)

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    assert process.run(settings) == 0
    assert isinstance(built[0].http, type)
    assert issubclass(built[0].http, AutoHTTPProtocol)
    assert built[0].http.limits is settings  # type: ignore[attr-defined]


def _count(app: FastAPI, code: str) -> float:
    registry = app.state.metrics.registry
    counts = (
        registry.get_sample_value("mindprint_refusals_total", {"tenant": tenant, "code": code})
        for tenant in ("", "default")
    )
    return sum(count or 0.0 for count in counts)
