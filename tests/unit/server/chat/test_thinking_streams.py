"""Thinking: shown while it is written, bounded and counted with the answer, the same as a whole and streamed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from chat_room import EMPTY, GOOD, LOOP, PREFIX, Room, Written, joined, lines
from mindprint_server.chat.runner import ChatReply
from mindprint_server.chat.streaming import PING
from mindprint_server.exceptions import BackendRefused, Invalid, ServerError
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.store import RecordNotFound

THINKS: dict[str, Any] = {"model": "user/ann", "mode": "personal"}
STREAMS: dict[str, Any] = {**THINKS, "stream": True, "stream_options": {"include_usage": True}}
TOKENS = 10
"""Tokens of GOOD."""


def bounded(field: str, tokens: int) -> dict[str, Any]:
    return {field: tokens}


async def next_line(reply: ChatReply) -> str:
    assert not isinstance(reply.content, dict)
    async with asyncio.timeout(20):
        return await anext(reply.content)


async def next_event(reply: ChatReply) -> dict[str, Any]:
    """The next event that is no comment."""
    while (line := await next_line(reply)) == PING:
        pass
    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return event


# --- the same as a whole and streamed ---


@pytest.mark.parametrize("max_tokens", [None, 1, TOKENS, TOKENS + 1, 40])
@pytest.mark.parametrize("version", [GOOD, EMPTY, LOOP])
async def test_streamed_answer_equals_the_whole_one(room: Room, version: Written, max_tokens: int | None) -> None:
    room.engine.thinks["user/ann@1"] = version
    whole = (await room.reply({**THINKS, "max_tokens": max_tokens})).content
    events = await lines(await room.reply({**STREAMS, "max_tokens": max_tokens}))
    assert isinstance(whole, dict)
    [choice] = whole["choices"]
    message = choice["message"]
    for name in ("content", "reasoning", "reasoning_content", "role"):
        assert joined(events, name) == message[name], name
    finishes = [one["finish_reason"] for event in events for one in event["choices"] if one.get("finish_reason")]
    assert finishes == [choice["finish_reason"]]
    [usage] = [event["usage"] for event in events if event.get("usage")]
    assert usage == whole["usage"]
    [made_by] = [event["mindprint"] for event in events if "mindprint" in event]
    assert made_by == whole["mindprint"]


async def test_leading_white_space_of_an_answer_is_left_out_in_a_stream_too(room: Room) -> None:
    whole = await room.ask("base", "direct")
    events = await lines(await room.reply({"model": "base", "stream": True}))
    assert joined(events, "content") == whole["choices"][0]["message"]["content"] == "base"


async def test_answers_of_one_request_share_their_thinking_and_count_it_once(room: Room) -> None:
    events = await lines(await room.reply({**STREAMS, "n": 2}))
    assert [joined(events, "reasoning", index) for index in range(2)] == [PREFIX + GOOD[0]] * 2
    assert len(room.engine.samplings) == 1
    assert events[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": TOKENS}


# --- tokens ---


async def test_usage_counts_thinking_among_what_was_written(room: Room) -> None:
    usage = (await room.ask())["usage"]
    prompt = room.backend.prompts[0]
    assert prompt is not None
    before = room.engine.tokenizer.decode(prompt.ids[: usage["prompt_tokens"]])
    assert before == prompt.text[: prompt.text.index(GOOD[0])]
    assert usage == {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": TOKENS + 2,
        "total_tokens": usage["prompt_tokens"] + TOKENS + 2,
        "completion_tokens_details": {"reasoning_tokens": TOKENS},
    }
    assert (await room.ask(mode="direct"))["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_bound_of_tokens_holds_for_thinking_and_answer_together(room: Room, field: str) -> None:
    await room.ask(**bounded(field, 40))
    [sampling] = room.engine.samplings
    assert sampling.max_tokens == 40
    assert (room.backend.bodies[0]["max_tokens"], room.backend.bodies[0]["max_completion_tokens"]) == (
        None,
        40 - TOKENS,
    )
    await room.ask(**bounded(field, 2000))
    assert room.engine.samplings[-1].max_tokens == room.services.settings.max_thinking_tokens


async def test_bound_that_ends_with_the_thinking_leaves_an_empty_answer_and_blames_no_version(room: Room) -> None:
    reply = await room.ask(max_tokens=1)
    [choice] = reply["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert choice["message"]["reasoning"] == PREFIX + " they"
    assert reply["usage"]["completion_tokens"] == 1
    assert reply["mindprint"]["fallback"] is None
    assert room.backend.bodies == []
    assert room.outcomes() == {}, "nothing was judged"


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_leaves_the_answer_its_room_or_is_refused_before_it(room: Room, stream: bool) -> None:
    before = (await room.ask("base"))["usage"]["prompt_tokens"]
    closing = len(room.engine.tokenizer.encode(room.chat._turns.thinking_suffix(room.services.settings.answer_prefix)))
    least, asked = room.services.settings.min_answer_tokens, {**THINKS, "model": "base", "stream": stream}

    async def ask(length: int, **more: Any) -> int:
        room.engine._info = replace(room.engine._info, max_model_len=length)
        reply = await room.reply({**asked, **more})
        if stream:
            await lines(reply)
        return room.engine.samplings[-1].max_tokens

    assert await ask(before + closing + least + 3) == 3
    prompt = room.backend.prompts[-1]
    assert prompt is not None
    assert len(prompt.ids) + least <= before + closing + least + 3
    assert await ask(before + closing + 20, max_tokens=20) == 20
    generated = len(room.engine.samplings)
    for length, more, cure in (
        (before + closing + least, {}, "shorten the messages"),
        (before + closing + 20, {"max_tokens": 21}, "ask for at most 20"),
        (before + closing, {"max_tokens": 1}, "shorten the messages"),
    ):
        with pytest.raises(Invalid, match=cure) as refused:
            await ask(length, **more)
        assert refused.value.code == "prompt_too_long"
    assert len(room.engine.samplings) == generated, "nothing was generated"


async def test_least_tokens_of_an_answer_give_way_to_its_bound(room: Room) -> None:
    await room.ask(max_tokens=TOKENS + 3, min_tokens=8)
    assert room.backend.bodies[0]["min_tokens"] == 3


async def test_sampling_parameters_reach_the_thinking(room: Room) -> None:
    given: dict[str, Any] = {
        "temperature": 0.7,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 3,
        "presence_penalty": 0.2,
    }
    await room.ask(**given)
    sampling = room.engine.samplings[-1]
    assert {name: getattr(sampling, name) for name in given} == given
    await room.ask()
    assert room.engine.samplings[-1].temperature == 0, "greedy, where the request says nothing"


async def test_temperature_of_the_thinking_alone(room: Room) -> None:
    await room.ask(temperature=0.7, seed=3, thinking_temperature=0)
    assert (room.engine.samplings[-1].temperature, room.backend.bodies[-1]["temperature"]) == (0, 0.7)
    assert "thinking_temperature" not in room.backend.bodies[-1]
    for value in (-1, 3, "hot", True):
        with pytest.raises(Invalid, match="from 0 to 2") as refused:
            await room.ask(thinking_temperature=value)
        assert refused.value.param == "thinking_temperature"


# --- while it is written ---


async def test_thinking_is_streamed_while_it_is_written(room: Room) -> None:
    room.engine.may_go_on.clear()
    reply = await room.reply(STREAMS)
    first = await next_event(reply)
    assert first["model"] == "user/ann"
    assert first["object"] == "chat.completion.chunk"
    assert joined([first], "reasoning") == PREFIX + " they"
    assert joined([first], "role") == "assistant"
    assert reply.model == "user/ann@1"
    assert room.backend.bodies == [], "no answer has begun"
    room.engine.may_go_on.set()
    rest = await lines(reply)
    assert joined(rest, "reasoning") == GOOD[0].removeprefix(" they")
    assert joined(rest, "role") == "", "clients join what comes twice"
    assert room.backend.bodies[0]["request_id"] == first["id"].removeprefix("chatcmpl-")


async def test_stream_begins_without_a_line_and_pings_until_there_is_one(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.services.settings, "stream_max_silence_s", 0.01)
    admission = room.chat._admission = AdmissionController(1, 1, max_waiting=1)
    async with admission.enter():
        reply = await room.reply(STREAMS)
        assert reply.model is None
        assert [await next_line(reply) for _ in range(3)] == [PING] * 3
    events = await lines(reply)
    assert joined(events, "content") == "user/ann@1"


async def test_error_before_the_first_line_is_raised_and_a_later_one_is_the_last_event(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {**STREAMS, "model": "user/nobody"}
    with pytest.raises(RecordNotFound):
        await room.reply(asked)
    monkeypatch.setattr(room.services.settings, "stream_max_silence_s", 0.01)
    admission = room.chat._admission = AdmissionController(1, 1, max_waiting=1)
    async with admission.enter():
        reply = await room.reply(asked)
        assert await next_line(reply) == PING
    [last] = await lines(reply)
    assert (last["error"]["code"], last["error"]["type"]) == ("user_not_found", "invalid_request_error")
    assert admission._queue.held == 0


async def test_request_that_the_engine_refuses_is_refused_before_its_thinking(room: Room) -> None:
    room.backend.refused = BackendRefused(400, "temperature must be non-negative")
    for body in (THINKS, STREAMS):
        with pytest.raises(ServerError, match="non-negative"):
            await room.reply(body)
    assert room.engine.samplings == []
    assert room.outcomes() == {}


async def test_stream_ends_with_an_error_when_the_server_stops_while_it_thinks(room: Room) -> None:
    room.engine.may_go_on.clear()
    reply = await room.reply(STREAMS)
    await next_event(reply)
    room.ctx.shutdown.answering.cut()
    [last] = await lines(reply)
    assert (last["error"]["code"], last["error"]["type"]) == ("server_stopping", "server_error")
    assert not room.services.adapters.residency._requests
    assert room.outcomes() == {}, "this is no fault of the version"


async def test_caller_who_leaves_a_thinking_gives_the_turn_and_the_version_back(room: Room) -> None:
    room.engine.may_go_on.clear()
    reply = await room.reply(STREAMS)
    await next_event(reply)
    assert room.services.adapters.residency._requests
    assert not isinstance(reply.content, dict)
    await reply.content.aclose()
    assert not room.services.adapters.residency._requests
    assert room.chat._admission._queue.held == 0


# --- agents ---


async def test_agent_s_turns_reach_a_user_s_model_and_its_memory_is_asked_the_user_s_question(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    recalled: list[str] = []
    recall = room.services.memory.recall_existing

    async def noting(user_id: str, **kwargs: Any) -> Any:
        recalled.append(kwargs["query"])
        return await recall(user_id, **kwargs)

    monkeypatch.setattr(room.services.memory, "recall_existing", noting)
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "lake"}'}}
    messages = [
        {"role": "user", "content": "A walk?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    for mode in ("direct", "personal"):
        await room.ask(mode=mode, messages=messages, tools=tools)
        body = room.backend.bodies[-1]
        assert body["messages"][1]["content"].startswith("Question: A walk?\n")
        assert body["messages"][2:] == messages[1:]
        assert body["tools"] == tools
    assert recalled == ["A walk?"] * 2
    assert "[tool] sunny\n[assistant]" in room.engine.prompts[-1], "the thinking reads what the tool said"


@pytest.mark.parametrize("choices", [["yes"], ["yes", "yes"], "yes", ["yes", ""], ["yes", 3]])
async def test_choices_that_are_none_are_refused(room: Room, choices: Any) -> None:
    with pytest.raises(Invalid) as refused:
        await room.ask(choices=choices)
    assert refused.value.param == "choices"
