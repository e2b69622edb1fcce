"""What vLLM's serving classes reply, and what becomes of it. The classes are scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mindprint_server.engine import EngineDied
from mindprint_server.engine.slots import ActiveAdapterLimiter
from mindprint_server.engine.vllm_openai import VllmChat
from mindprint_server.exceptions import BackendRefused

ERROR = {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}


def chat_on(*, errored: bool) -> VllmChat:
    none = cast(Any, None)
    llm = cast(Any, SimpleNamespace(errored=errored))
    return VllmChat(none, none, none, ActiveAdapterLimiter(1), none, 10, True, llm)


async def answer(chat: VllmChat, create: Any) -> Any:
    return await chat._answer_in_slot(create, SimpleNamespace(model="base"), None, {"model": "base"})


@pytest.mark.parametrize(("errored", "kind"), [(True, EngineDied), (False, BackendRefused)])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_error_of_a_dead_engine_is_told_from_a_refusal(
    errored: bool, kind: type[Exception], is_streamed: bool
) -> None:
    async def stream() -> AsyncGenerator[str]:
        yield f'data: {{"error": {json.dumps(ERROR)}}}\n\n'

    async def create(*_: Any) -> Any:
        return stream() if is_streamed else SimpleNamespace(error=SimpleNamespace(**ERROR))

    with pytest.raises(kind):
        async for _ in await answer(chat_on(errored=errored), create):
            pass


async def test_cancelled_request_stays_cancelled_where_vllm_replies_with_an_error() -> None:
    async def create(*_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return SimpleNamespace(error=SimpleNamespace(**ERROR))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await answer(chat_on(errored=False), create)


async def test_vllms_stream_is_closed_with_the_caller_s() -> None:
    closed = False

    async def stream() -> AsyncGenerator[str]:
        nonlocal closed
        try:
            yield "data: {}\n\n"
            yield "data: {}\n\n"
        finally:
            closed = True

    async def create(*_: Any) -> Any:
        return stream()

    lines = await answer(chat_on(errored=False), create)
    await anext(lines)
    await lines.aclose()
    assert closed
