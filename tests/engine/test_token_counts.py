"""The tokens that count for a tenant are those of `usage`, on a real engine that can chat, also if a caller leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from mindprint_server.chat.runner import ChatReply
from mindprint_server.exceptions import ClientGone
from mindprint_server.wiring import Services
from samples import engagement

ASK = [{"role": "user", "content": "A walk by the lake?"}]
LONG = 1200
"""Tokens of an answer that nobody waits for."""


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def ann(services: Services) -> None:
    if services.chat._backend is None:
        pytest.skip("the engine cannot chat")
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])


def body_of(route: str, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "chat": {"messages": ASK, "max_tokens": 40},
        "completions": {"prompt": ["A walk", "A boat"], "max_tokens": 9},
        "responses": {"input": ASK, "max_output_tokens": 40},
    }[route]
    return {"model": "user/ann", "temperature": 1, "seed": 3, **asked, **more}


async def ask(services: Services, route: str, body: dict[str, Any], leave: Any = None) -> ChatReply:
    async def stay() -> None:
        await asyncio.Event().wait()

    wait = leave or stay
    if route == "chat":
        return await services.chat.complete(body, wait_for_disconnect=wait)
    if route == "completions":
        return await services.completions.complete(body, wait_for_disconnect=wait)
    return await services.responses.create(body, wait_for_disconnect=wait)


def counted(services: Services) -> int:
    labels = {"tenant": "default"}
    return int(services.metrics.registry.get_sample_value("mindprint_generated_tokens_total", labels) or 0)


ROUTES = [
    ("chat", {}),
    ("chat", {"mode": "personal"}),
    ("chat", {"mode": "personal", "n": 3}),
    ("chat", {"n": 2, "use_beam_search": False}),
    ("completions", {"n": 2}),
    ("completions", {"n": 2, "logprobs": 2}),
    ("completions", {"echo": True, "max_tokens": 0}),
    ("responses", {}),
    ("responses", {"mode": "personal"}),
]


@pytest.mark.parametrize(("route", "more"), ROUTES)
async def test_whole_and_streamed_answers_count_what_usage_says(
    services: Services, route: str, more: dict[str, Any]
) -> None:
    whole = (await ask(services, route, body_of(route, **more))).content
    assert isinstance(whole, dict)
    written = whole["usage"]["output_tokens" if route == "responses" else "completion_tokens"]
    assert written > 0
    assert counted(services) == written
    stream = (await ask(services, route, body_of(route, **more, stream=True))).content
    assert not isinstance(stream, dict)
    assert [line async for line in stream]
    assert counted(services) == 2 * written


@pytest.mark.parametrize("route", ["chat", "completions", "responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_written_for_a_caller_who_left_counts(services: Services, route: str, stream: bool) -> None:
    length = "max_output_tokens" if route == "responses" else "max_tokens"
    body = body_of(route, **{length: LONG}, ignore_eos=True, stream=stream)

    async def leave() -> None:
        while counted(services) < 20:  # noqa: ASYNC110 (the engine tells of its tokens by the count alone)
            await asyncio.sleep(0.001)

    if stream:
        lines = (await ask(services, route, body)).content
        assert not isinstance(lines, dict)
        async for _ in lines:
            if counted(services) >= 20:
                break
        await lines.aclose()
    else:
        with pytest.raises(ClientGone):
            await ask(services, route, body, leave)
    assert 20 <= counted(services) < LONG
