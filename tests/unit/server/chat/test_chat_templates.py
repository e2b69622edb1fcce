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
from mindprint_server.chat.request import read_request
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


def thinking_in(text: str, room: Room) -> str:
    """The thinking in a prompt, which must stand between the model's own tags, exactly once."""
    opens, closes = room.engine.tokenizer.chat_format.tags
    assert text.count(opens) == text.count(closes) == 1, text
    thinking, closed, _ = text.partition(opens)[2].partition(closes)
    assert closed
    return thinking.strip()


@EVERY_FAMILY
async def test_every_mode_answers(opened: Open, name: str) -> None:
    async with opened(name) as room:
        for model, mode in product(["base", "user/ann"], MODES):
            reply = await room.ask(model, mode)
            assert reply["mindprint"]["mode"] == mode
            assert reply["mindprint"]["fallback"] is None
            assert (thought(reply) is None) == (mode == "direct")
            if mode != "direct":
                begun = PREFIX if mode == "personal" else ""
                assert thinking_in(room.backend.prompts[-1].text, room).startswith(begun)


@EVERY_FAMILY
async def test_thinking_reaches_the_engine_as_token_ids(opened: Open, name: str) -> None:
    """Templates such as Qwen 3's cut it out of messages."""
    async with opened(name) as room:
        await room.ask(mode="generic")
        body, prompt = room.backend.bodies[-1], room.backend.prompts[-1]
        assert prompt is not None
        assert thinking_in(prompt.text, room).endswith(GOOD[0])
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
        await room.ask("base", "direct", chat_template_kwargs={"note": "n", "thinking": False})
        assert room.backend.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False, "note": "n"}


async def test_direct_answer_uses_the_soft_switch_where_the_template_has_no_other(opened: Open) -> None:
    async with opened("nemotron") as room:
        await room.ask("base", "direct", messages=[{"role": "user", "content": "A walk?"}])
        assert room.backend.prompts[-1] is None
        assert room.backend.bodies[-1]["messages"] == [{"role": "user", "content": "A walk? /no_think"}]


@pytest.mark.parametrize("name", ["chatml", "qwen3", "smollm3", "nemotron", "glm", "granite"])
@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
async def test_mode_and_arguments_that_contradict_are_refused_by_name(opened: Open, name: str, switch: str) -> None:
    async with opened(name) as room:
        for mode in ("generic", "personal"):
            with pytest.raises(Invalid) as error:
                await room.ask("base", mode, chat_template_kwargs={switch: False})
            assert (error.value.code, error.value.param) == ("validation_error", "chat_template_kwargs")
            assert error.value.message == (
                f"mode {mode} thinks, and chat_template_kwargs has {switch}=false: "
                f"send mode direct, or leave {switch} out"
            )
        with pytest.raises(Invalid, match=f"mode direct does not think.* {switch}=true: send mode generic"):
            await room.ask("base", "direct", chat_template_kwargs={switch: True})
        assert not room.backend.bodies


@pytest.mark.parametrize("name", ["qwen3", "smollm3", "granite"])
@pytest.mark.parametrize("value", [None, True, "no"])
async def test_arguments_about_thinking_do_not_reach_the_template(opened: Open, name: str, value: object) -> None:
    """Whatever they hold, the thinking is written inside of its tags."""
    async with opened(name) as room:
        await room.ask("base", "generic", chat_template_kwargs={"enable_thinking": value, "thinking": value})
        assert thinking_in(room.backend.prompts[-1].text, room).endswith(GOOD[0])


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "auto"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "direct"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "auto"),
        ({"reasoning_effort": "none"}, "direct"),
        ({"reasoning_effort": "high"}, "auto"),
    ],
)
def test_auto_answers_directly_where_the_caller_wants_no_thinking(fields: dict[str, Any], mode: str) -> None:
    body = {"model": "user/ann", "mode": "auto", "messages": [{"role": "user", "content": "A walk?"}], **fields}
    assert read_request(body, special=(), unsupported={}, max_answers=1).mode == mode


async def test_direct_answer_of_a_model_that_begins_a_thinking_follows_an_empty_one(opened: Open) -> None:
    async with opened("lfm2") as room:
        await room.ask("base", "direct")
        prompt = room.backend.prompts[-1]
        assert prompt is not None
        assert prompt.text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n")


async def test_effort_of_a_request_reaches_templates_in_thinking_modes_alone(opened: Open) -> None:
    """vLLM would also switch on the thinking of a template with `enable_thinking`."""
    async with opened("gemma4") as room:
        tokenizer = copy.copy(make_tokenizer("gemma4"))
        tokenizer.chat_template += "{{ '[' + reasoning_effort + ']' if reasoning_effort else '' }}"
        room.engine.tokenizer._tokenizer = tokenizer
        await room.ask("base", "direct", reasoning_effort="high")
        assert room.backend.bodies[-1]["reasoning_effort"] is None
        await room.ask("base", "generic", reasoning_effort="high")
        assert "[high]" in room.backend.prompts[-1].text


@EVERY_FAMILY
@pytest.mark.parametrize("words", ["/think", "/no_think", "/nothink", "/system_override"])
async def test_words_of_users_switch_nothing(opened: Open, name: str, words: str) -> None:
    """Neither in what is asked nor in what is stored."""
    async with opened(name) as room:
        stored = engagement(7).model_copy(
            update={"prompt": f"Or {words}?", "response": f"it {words}s", "choices": None}
        )
        await room.services.store.engagements.add("ann", [stored])
        for mode in MODES:
            prompts = []
            for text in (f"A walk{words}", "A walk"):
                await room.ask(mode=mode, messages=[{"role": "user", "content": text}])
                body = room.backend.bodies[-1]
                chat_format = room.engine.tokenizer.chat_format
                written = str(body["messages"]).replace(f" {chat_format.direct_words}'", "'")
                assert not any(one in written for one in chat_format.soft_switches)
                read = room.engine.tokenizer.render(body["messages"], thinking=mode != "direct")
                prompts.append(room.backend.prompts[-1].text if room.backend.prompts[-1] else read)
            assert (
                prompts[0].replace(f"A walk{words}", "A walk").replace(f"A walk/ {words[1:]}", "A walk") == prompts[1]
            )


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
