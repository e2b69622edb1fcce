"""OpenAI's Responses API: what a request becomes as a chat, and what its answer becomes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from chat_room import GOOD, PREFIX, Room
from mindprint_server.chat.response_output import ResponseWriter
from mindprint_server.chat.response_request import read_chat_request
from mindprint_server.chat.responses import ResponseService, write_events
from mindprint_server.chat.runner import ChatReply
from mindprint_server.exceptions import Invalid

ASK = {"model": "base", "input": "Tea?"}


async def respond(room: Room, **body: Any) -> ChatReply:
    async def stay() -> None:
        await asyncio.Event().wait()

    return await ResponseService(room.chat).create({**ASK, **body}, wait_for_disconnect=stay)


def events_of(lines: list[str]) -> list[dict[str, Any]]:
    """The data of events, checked for their form."""
    found = []
    for number, line in enumerate(lines):
        name, data = line.split("\n")[:2]
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        found.append(event)
    return found


# --- requests ---


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ({}, [{"role": "user", "content": "Tea?"}]),
        (
            {"instructions": "Be kind", "input": [{"role": "user", "content": "Tea?"}]},
            [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Tea?"}],
        ),
        (
            {
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tea?"}]},
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {"type": "function_call", "call_id": "c1", "name": "brew", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c1", "output": "done"},
                ]
            },
            [
                {"role": "user", "content": [{"type": "input_text", "text": "Tea?"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "brew", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "done"},
            ],
        ),
    ],
)
def test_input_becomes_messages(body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert read_chat_request({**ASK, **body})["messages"] == messages


def test_options_become_those_of_a_chat_and_what_changes_nothing_is_left_out() -> None:
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    chat = read_chat_request(
        {
            **ASK, "mode": "personal", "temperature": 0, "seed": 3, "max_output_tokens": 9, "stream": True,
            "store": True, "metadata": {"a": "b"}, "reasoning": {"effort": "low"}, "text": {"format": schema},
            "tools": [{"type": "function", "name": "brew", "parameters": {}}],
            "tool_choice": {"type": "function", "name": "brew"},
        }
    )  # fmt: skip
    assert chat == {
        "model": "base", "mode": "personal", "temperature": 0, "seed": 3, "max_completion_tokens": 9, "stream": True,
        "stream_options": {"include_usage": True}, "messages": [{"role": "user", "content": "Tea?"}],
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}
        },
        "tools": [{"type": "function", "function": {"name": "brew", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "brew"}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [7]}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input"),
        ({"input": [{"type": ["message"]}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "c1", "output": None}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f1"}]}]}, "input"),
        ({"instructions": [{"role": "system", "content": "x"}]}, "instructions"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": "all"}, "tools"),
    ],
)
def test_what_is_not_done_is_refused_by_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid, match=param) as error:
        read_chat_request({**ASK, **body})
    assert error.value.param == param


def test_an_image_has_the_form_of_a_chat() -> None:
    part = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}
    (message,) = read_chat_request({**ASK, "input": [{"role": "user", "content": [part]}]})["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
    ]


async def test_a_part_of_the_input_has_this_api_s_name(room: Room) -> None:
    with pytest.raises(Invalid, match=r"messages\[0\].content") as error:
        await respond(room, input=[{"role": "user", "content": None}])
    assert error.value.param == "input"


async def test_a_refusal_of_the_chat_has_this_api_s_name_of_the_field(room: Room) -> None:
    with pytest.raises(Invalid) as error:
        await respond(room, input=[{"role": "wizard", "content": "Tea?"}])
    assert error.value.param == "input"


# --- answers ---


async def test_a_whole_answer_has_the_thinking_apart(room: Room) -> None:
    reply = await respond(room, model="user/ann", mode="personal", metadata={"a": "b"}, store=True)
    assert isinstance(reply.content, dict)
    response = reply.content
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "user/ann")
    assert reply.model == "user/ann@1"
    assert (response["metadata"], response["store"]) == ({"a": "b"}, False)
    assert response["mindprint"]["thinking"] == "user/ann@1"
    thinking, message = response["output"]
    assert (thinking["type"], thinking["summary"]) == ("reasoning", [])
    assert thinking["content"] == [{"type": "reasoning_text", "text": PREFIX + GOOD[0]}]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    assert message["content"][0]["text"] == "user/ann@1"


async def test_the_events_of_a_stream_build_the_response_that_ends_it(room: Room) -> None:
    reply = await respond(room, model="user/ann", mode="personal", stream=True)
    assert not isinstance(reply.content, dict)
    events = events_of([line async for line in reply.content])
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    item = ["output_item.added", "content_part.added"]
    ends = ["content_part.done", "output_item.done"]
    thinking = [kind for kind in kinds if kind == "reasoning_text.delta"]
    answer = [kind for kind in kinds if kind == "output_text.delta"]
    assert kinds[2:-1] == [
        *item, *thinking, "reasoning_text.done", *ends, *item, *answer, "output_text.done", *ends
    ]  # fmt: skip
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"], last["id"]) == (
        "response.completed",
        "completed",
        events[0]["response"]["id"],
    )
    for kind, index in (("reasoning_text", 0), ("output_text", 1)):
        text = "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta")
        assert text == last["output"][index]["content"][0]["text"] != ""
    assert room.outcomes() == {"fine": 1}


def test_calls_of_functions_are_items_of_their_own() -> None:
    writer = ResponseWriter(ASK)
    pieces = [
        {"index": 0, "id": "c1", "function": {"name": "brew", "arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
        {"index": 1, "id": "c2", "function": {"name": "pour", "arguments": "{}"}},
    ]
    lines = [*writer.begin()]
    for piece in pieces:
        lines += writer.add({"choices": [{"delta": {"tool_calls": [piece]}}]})
    lines += [*writer.add({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}), *writer.end()]
    output = events_of(lines)[-1]["response"]["output"]
    assert [(item["name"], item["call_id"], item["arguments"], item["status"]) for item in output] == [
        ("brew", "c1", '{"a": 1}', "completed"),
        ("pour", "c2", "{}", "completed"),
    ]


def test_an_answer_that_was_cut_is_incomplete_and_says_why() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}
    choice = {"message": {"content": "Te"}, "finish_reason": "length"}
    response = ResponseWriter(ASK).write_whole({"choices": [choice], "usage": usage})
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 8,
    }


async def test_an_error_in_the_chat_s_stream_ends_the_events() -> None:
    async def lines() -> AsyncGenerator[str]:
        yield 'data: {"error": {"message": "the server stops", "code": "server_stopping"}}\n\n'
        raise AssertionError("nothing is read after an error")

    empty, *written = [event async for event in write_events(lines(), ResponseWriter(ASK))]
    assert empty == ""
    assert [event["type"] for event in events_of(written)][-2:] == ["error", "response.failed"]


def test_the_last_events_of_a_failure_name_the_error() -> None:
    writer = ResponseWriter(ASK)
    error = {"code": "server_stopping", "message": "the server stops", "param": None, "type": "server_error"}
    failed, last = events_of([*writer.fail(error)])
    assert (failed["type"], failed["code"], failed["message"]) == ("error", "server_stopping", "the server stops")
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")


def test_parallel_calls_are_one_turn_of_the_assistant() -> None:
    calls = [{"type": "function_call", "call_id": f"c{n}", "name": "brew", "arguments": "{}"} for n in range(2)]
    outputs = [{"type": "function_call_output", "call_id": f"c{n}", "output": "done"} for n in range(2)]
    said = {"role": "assistant", "content": "I brew"}
    messages = read_chat_request({**ASK, "input": [{"role": "user", "content": "Tea?"}, said, *calls, *outputs]})[
        "messages"
    ]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["content"] == "I brew"
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["c0", "c1"]


async def test_late_error_has_this_api_s_names_and_leaves_no_item_open() -> None:
    async def chat() -> AsyncGenerator[str]:
        yield 'data: {"choices":[{"index":0,"delta":{"content":"Te"}}]}\n\n'
        yield 'data: {"error":{"message":"too long","code":"prompt_too_long","param":"messages"}}\n\n'

    events = events_of([line async for line in write_events(chat(), ResponseWriter(ASK)) if line])
    [error] = [event for event in events if event["type"] == "error"]
    assert error["param"] == "input"
    [item] = events[-1]["response"]["output"]
    assert item["status"] == "incomplete"
