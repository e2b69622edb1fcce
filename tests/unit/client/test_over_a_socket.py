"""The same over real connections, which break as connections do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any

import pytest

from mindprint import AsyncMindprintClient, ConnectionFailed, MindprintClient

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def server(*replies: bytes) -> AsyncIterator[str]:
    """Sends each connection one of the replies, the last one again and again, and closes it."""
    left = list(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def items(kind: str, url: str, name: str, *args: Any) -> list[Any]:
    if kind == "async":
        async with AsyncMindprintClient(url) as client:
            return [item async for item in attrgetter(name)(client)(*args)]

    def read() -> list[Any]:
        with MindprintClient(url) as client:
            return list(attrgetter(name)(client)(*args))

    return await asyncio.to_thread(read)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_watching_goes_on_after_a_cut(kind: str, samples: Any) -> None:
    one, two, three = (samples.event(samples.batch(*state)) for state in (("running", 1), ("running", 2), ("done", 4)))
    whole = HEAD + chunk(two) + chunk(three) + b"0\r\n\r\n"
    async with server(HEAD + chunk(one) + chunk(two)[:50], b"", whole) as url:
        seen = await items(kind, url, "batches.watch", "b1")
    assert [batch.done for batch in seen] == [1, 2, 4]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_cut_list_is_never_taken_for_a_whole_one(kind: str, samples: Any) -> None:
    line = json.dumps(samples.trace()).encode() + b"\n"
    async with server(HEAD + chunk(line) + chunk(line)[:50]) as url:
        with pytest.raises(ConnectionFailed, match="broke"):
            await items(kind, url, "traces.export")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_nobody_listens(kind: str) -> None:
    async with server(b"") as url:
        pass
    with pytest.raises(ConnectionFailed, match="start one with `mindprint serve`"):
        await items(kind, url, "traces.export")
