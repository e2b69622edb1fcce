"""Chats, traces and batches through templates that refuse a role, cut a thinking or open one."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from chat_room import GOOD, PREFIX, Engine, Room, thought
from chat_templates import SERVED, make_tokenizer
from family_engine import FamilyEngine, FamilyTokenizer
from mindprint.types import BatchRequest, TraceRequest
from mindprint_server.exceptions import Invalid
from mindprint_server.settings import Settings
from samples import engagement
from scripted import serving

Open = Callable[[str], Any]
MODES = ["direct", "generic", "personal"]
EVERY_FAMILY = pytest.mark.parametrize("name", SERVED)


@pytest.fixture
def opened(settings: Settings, base_folder: Path) -> Open:
    """A chat service with the tokenizer of a family; ann has a history."""

    @asynccontextmanager
    async def open_(name: str) -> AsyncIterator[Room]:
        engine = Engine(base_folder)
        engine.tokenizer = FamilyTokenizer(name)  # type: ignore[assignment]
        async with AsyncExitStack() as stack:
            services = await stack.enter_async_context(serving(settings, engine))
            await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
            yield Room(services, engine)

    return open_


@EVERY_FAMILY
async def test_every_mode_answers(opened: Open, name: str) -> None:
    async with opened(name) as room:
        for model, mode in product(["base", "user/ann"], MODES):
            reply = await room.ask(model, mode)
            assert reply["mindprint"]["mode"] == mode
            assert (thought(reply) is None) == (mode == "direct")


@EVERY_FAMILY
async def test_thinking_reaches_the_engine_as_token_ids(opened: Open, name: str) -> None:
    """Templates such as Qwen 3's cut it out of messages."""
    async with opened(name) as room:
        await room.ask(mode="generic")
        body, prompt = room.backend.bodies[-1], room.backend.prompts[-1]
        assert prompt is not None
        assert prompt.text.count("<think>") == prompt.text.count("</think>") == 1
        thinking = prompt.text.partition("<think>\n")[2].partition("\n</think>")[0]
        assert thinking.endswith(GOOD[0])
        decoded = room.engine.tokenizer.decode(prompt.ids)
        assert GOOD[0].strip() in decoded
        assert body.keys().isdisjoint({"continue_final_message", "add_generation_prompt"})
        assert all(GOOD[0] not in message["content"] for message in body["messages"])


@pytest.mark.parametrize("name", ["r1", "qwen3_thinking"])
async def test_direct_answer_comes_after_a_closed_thinking(opened: Open, name: str) -> None:
    async with opened(name) as room:
        await room.ask("base", "direct")
        prompt = room.backend.prompts[-1]
        assert prompt is not None
        assert prompt.text.endswith("<think>\n\n</think>\n\n")


WRITES_ALL = (
    "{% for one in documents or [] %}[document {{ one['text'] }}]{% endfor %}[note {{ note }}]"
    "{% for message in messages %}[{{ message['role'] }} {{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}{% for name, value in call.function.arguments.items() %}"
    "{{ ' ' + name + '=' + value }}{% endfor %}{% endfor %}]{% endfor %}{{ '<think>\n' }}"
)


async def test_direct_prompt_holds_what_vllm_would_render(opened: Open) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "walk", "arguments": '{"to": "lake"}'}}
    parts = [{"type": "text", "text": "A walk"}, {"type": "text", "text": "today?"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
    ]
    arguments = {"note": "n", "chat_template": "other", "tokenize": True, "add_generation_prompt": False}
    async with opened("r1") as room:
        tokenizer = copy.copy(make_tokenizer("r1"))
        tokenizer.chat_template = WRITES_ALL
        room.engine.tokenizer._tokenizer = tokenizer
        await room.ask("base", "direct", messages=messages, documents=[{"text": "d"}], chat_template_kwargs=arguments)
        prompt = room.backend.prompts[-1]
        assert prompt is not None
        assert prompt.text == (
            "[document d][note n][user A walk\ntoday?][assistant  to=lake][tool sunny]<think>\n\n</think>\n\n"
        )


async def test_direct_prompt_with_an_image_is_refused_by_name(opened: Open) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    async with opened("r1") as room:
        with pytest.raises(Invalid, match="no content part of type 'image_url'"):
            await room.ask("base", "direct", messages=[{"role": "user", "content": [image]}])


async def test_direct_answer_switches_the_thinking_off(opened: Open) -> None:
    async with opened("qwen3") as room:
        await room.ask("base", "direct")
        assert room.backend.prompts[-1] is None
        assert room.backend.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False}
        await room.ask("base", "direct", chat_template_kwargs={"enable_thinking": True})
        assert room.backend.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": True}, "the caller's own"


@pytest.mark.parametrize("name", ["chatml", "gemma", "mistral_v3", "qwen3"])
@pytest.mark.parametrize("roles", [["developer"], ["system", "system"], ["system", "developer"]])
async def test_system_messages_of_a_caller_are_read(opened: Open, name: str, roles: list[str]) -> None:
    messages = [{"role": role, "content": f"rule {number}"} for number, role in enumerate(roles)]
    async with opened(name) as room:
        for mode in MODES:
            await room.ask(mode=mode, messages=[*messages, {"role": "user", "content": "A walk?"}])
            read = room.backend.bodies[-1]["messages"]
            rendered = room.engine.tokenizer.render(read, thinking=mode != "direct")
            assert all(message["content"] in rendered for message in messages)
            assert "walk number 2" in rendered, "the memory is read too"
            assert not any(message["role"] == "developer" for message in read)


async def test_messages_that_the_template_refuses_are_the_callers_fault(opened: Open) -> None:
    async with opened("gemma") as room:
        messages = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
        with pytest.raises(Invalid, match="Roles must alternate") as error:
            await room.ask("base", "generic", messages=messages)
        assert error.value.code == "template_refused"
        assert PREFIX not in error.value.message


@EVERY_FAMILY
async def test_batches_and_traces_are_generated(settings: Settings, base_folder: Path, name: str) -> None:
    async with serving(settings, FamilyEngine(name, base_folder)) as services:
        await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
        for mode in MODES:
            trace = await services.traces.create(TraceRequest(user_id="ann", query="A walk?", mode=mode))
            assert "A walk?" in trace.prompt
        batch, _ = await services.batches.submit(BatchRequest())
        async for state in services.batches.watch(batch.id):
            batch = state
        assert batch.state == "done"
