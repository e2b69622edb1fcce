"""Replies that come item by item."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from mindprint import ApiError, BadReply, ConnectionFailed


def streamed(*pieces: bytes | Exception, body: Any) -> httpx.Response:
    return httpx.Response(200, stream=body(*pieces))


async def test_a_batch_is_watched_to_its_end(caller: Any, samples: Any, body: Any) -> None:
    states = [samples.batch("queued", 0), samples.batch("running", 2), samples.batch("done", 4)]
    caller.server.answers_with(streamed(b": ping\r\n\r\n", *map(samples.event, states), body=body))
    seen = await caller.items("batches.watch", "b1")
    assert [(batch.state, batch.done) for batch in seen] == [("queued", 0), ("running", 2), ("done", 4)]
    assert [str(request.url) for request in caller.server.asked] == ["http://server/v1/batches/b1/events"]


async def test_watching_goes_on_after_a_dropped_connection(caller: Any, samples: Any, body: Any) -> None:
    one, two, three = samples.batch("running", 1), samples.batch("running", 2), samples.batch("done", 4)
    caller.server.answers_with(
        streamed(samples.event(one), samples.event(two)[:20], httpx.ReadError("reset"), body=body),
        httpx.ConnectError("restarting"),
        httpx.Response(503, headers={"Retry-After": "1"}),
        streamed(samples.event(one), samples.event(two), body=body),  # ends too early, but in good order
        streamed(samples.event(two), samples.event(three), body=body),
    )
    seen = await caller.items("batches.watch", "b1")
    assert [batch.done for batch in seen] == [1, 2, 4], "what is known already is not told twice"
    assert len(caller.server.asked) == 5


async def test_watching_gives_up_when_nothing_comes_back(caller: Any, samples: Any, body: Any) -> None:
    caller.server.answers_with(streamed(samples.event(samples.batch()), body=body), httpx.ConnectError("refused"))
    with pytest.raises(ConnectionFailed, match="no server answers"):
        await caller.items("batches.watch", "b1")
    assert len(caller.server.asked) == 10, "the bound of this test on reconnects"


async def test_watching_what_is_not_there(caller: Any, samples: Any) -> None:
    caller.server.answers_with(httpx.Response(404, json=samples.refusal("batch_not_found")))
    with pytest.raises(ApiError) as caught:
        await caller.items("batches.watch", "b1")
    assert (caught.value.code, len(caller.server.asked)) == ("batch_not_found", 1)


@pytest.mark.parametrize("name", ["batches.watch", "batches.results"])
async def test_a_stream_that_is_left_is_closed(caller: Any, samples: Any, body: Any, name: str) -> None:
    piece = samples.event(samples.batch()) if name == "batches.watch" else json.dumps(samples.trace()).encode() + b"\n"
    open_body = body(*[piece] * 3)
    caller.server.answers_with(httpx.Response(200, stream=open_body))
    assert len(await caller.items(name, "b1", first=1)) == 1
    assert open_body.closed


@pytest.mark.parametrize(("name", "args", "path"), [
    ("batches.results", ("b1",), "/v1/batches/b1/results"),
    ("traces.export", (), "/v1/traces/export"),
])  # fmt: skip
async def test_ndjson(caller: Any, samples: Any, body: Any, name: str, args: Any, path: str) -> None:
    data = b"".join(json.dumps(samples.trace(id=f"t{n}", thinking="a\u2028b")).encode() + b"\n" for n in range(50))
    caller.server.answers_with(httpx.ReadError("reset"), streamed(data[:777], data[777:], body=body))
    traces = await caller.items(name, *args)
    assert [trace.id for trace in traces] == [f"t{n}" for n in range(50)]
    assert traces[0].thinking == "a\u2028b"
    assert caller.server.asked[0].url.path == path


async def test_ndjson_is_not_held_in_memory(caller: Any, samples: Any, body: Any) -> None:
    line = json.dumps(samples.trace()).encode() + b"\n"
    caller.server.answers_with(streamed(line, httpx.ReadError("only reached by one who reads ahead"), body=body))
    assert len(await caller.items("traces.export", first=1)) == 1


async def test_ndjson_that_breaks_off_is_not_begun_again(caller: Any, samples: Any, body: Any) -> None:
    line = json.dumps(samples.trace()).encode() + b"\n"
    caller.server.answers_with(streamed(line, httpx.ReadError("reset"), body=body))
    with pytest.raises(ConnectionFailed, match="broke"):
        await caller.items("traces.export")
    assert len(caller.server.asked) == 1


async def test_ndjson_of_something_else(caller: Any, body: Any) -> None:
    caller.server.answers_with(streamed(b"<html>\n", body=body))
    with pytest.raises(BadReply, match="line 1 of the reply is no Trace"):
        await caller.items("traces.export")


async def test_chat_streams(caller: Any, samples: Any, body: Any) -> None:
    data = samples.chat_chunks(("reasoning_content", "hm"), ("content", "te"), ("content", "a"))
    caller.server.answers_with(httpx.Response(429), *[streamed(data, body=body) for _ in range(2)])
    assert await caller.items("chat.completions.stream_text", "Tea?", model="user/ann") == ["te", "a"]
    assert json.loads(caller.server.asked[-1].content)["stream"] is True
    deltas = await caller.items("chat.completions.stream", "Tea?")
    assert [(delta.thinking, delta.text) for delta in deltas] == [("hm", ""), ("", "te"), ("", "a")]


async def test_a_chat_that_breaks_off_is_not_asked_again(caller: Any, samples: Any, body: Any) -> None:
    caller.server.answers_with(streamed(samples.chat_chunks(("content", "te"), done=False), body=body))
    with pytest.raises(ConnectionFailed, match="ask again"):
        await caller.items("chat.completions.stream_text", "Tea?")
    assert len(caller.server.asked) == 1
