"""Streams of a server that is told to stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from mindprint_server.chat.streaming import AnswerStream
from mindprint_server.exceptions import Unavailable
from mindprint_server.operation.shutdown import Cutoff, Shutdown


class Stream:
    """Yields two items, then waits until it is ended."""

    def __init__(self, *, ends: bool = False) -> None:
        self.ends = ends
        self.waits = asyncio.Event()
        self.is_closed = False

    async def items(self) -> AsyncIterator[str]:
        try:
            yield "one"
            yield "two"
            self.waits.set()
            if not self.ends:
                await asyncio.Event().wait()
        finally:
            self.is_closed = True


async def read(items: AsyncIterator[str], into: list[str]) -> None:
    async for item in items:
        into.append(item)


async def test_stream_that_waits_is_cut_off_with_an_error() -> None:
    cutoff, stream, seen = Cutoff(), Stream(), list[str]()
    reading = asyncio.create_task(read(cutoff.pass_on(stream.items()), seen))
    await stream.waits.wait()
    cutoff.cut()
    with pytest.raises(Unavailable) as caught:
        await reading
    assert (seen, stream.is_closed, caught.value.code) == (["one", "two"], True, "server_stopping")


async def test_stream_that_begins_after_the_cut_yields_nothing() -> None:
    cutoff, seen = Cutoff(), list[str]()
    cutoff.cut()
    with pytest.raises(Unavailable):
        await read(cutoff.pass_on(Stream().items()), seen)
    assert seen == []


async def test_stream_that_ends_by_itself_ends_without_an_error() -> None:
    seen = list[str]()
    await read(Cutoff().pass_on(Stream(ends=True).items()), seen)
    assert seen == ["one", "two"]


async def test_time_out_of_the_stream_itself_stays_one() -> None:
    async def slow() -> AsyncIterator[str]:
        yield "one"
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await read(Cutoff().pass_on(slow()), [])


async def test_watchers_are_cut_at_once_and_answers_after_the_grace_time() -> None:
    shutdown, watched, answered = Shutdown(), Stream(), Stream()
    watching = asyncio.create_task(read(shutdown.watching.pass_on(watched.items()), []))
    answering = asyncio.create_task(read(shutdown.answering.pass_on(answered.items()), []))
    await asyncio.gather(watched.waits.wait(), answered.waits.wait())
    shutdown.begin(0.2)
    with pytest.raises(Unavailable):
        await watching
    assert not answering.done()
    with pytest.raises(Unavailable):
        await answering


async def test_answer_that_is_cut_off_ends_with_an_error_event() -> None:
    cutoff, source, seen = Cutoff(), Stream(), list[str]()
    stream = AnswerStream(60, cutoff, lambda: None)

    async def work() -> None:
        async for line in source.items():
            await stream.send(line)

    reading = asyncio.create_task(read(await stream.begin(work), seen))
    await source.waits.wait()
    while len(seen) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    cutoff.cut()
    await reading
    assert seen[:2] == ["one", "two"]
    error = json.loads(seen[2].removeprefix("data: "))["error"]
    assert (error["code"], error["type"], seen[2][-2:]) == ("server_stopping", "server_error", "\n\n")
    assert source.is_closed
