"""Raw prompts: who answers them, what of a request is refused, and what is counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chat_room import Room
from mindprint_server.chat.completions import count_prompts
from mindprint_server.chat.responses import ResponseService
from mindprint_server.chat.runner import ChatReply
from mindprint_server.exceptions import BackendRefused, ClientGone, Invalid, NotFound, ServerError
from mindprint_server.tenancy import current_tenant


async def complete(room: Room, **body: Any) -> ChatReply:
    async def stay() -> None:
        await asyncio.Event().wait()

    return await room.completions.complete({"model": "base", "prompt": "Tea", **body}, wait_for_disconnect=stay)


async def test_a_version_s_adapter_applies_and_no_memory_goes_before_the_prompt(room: Room) -> None:
    for model, root in (("user/ann", "user/ann@1"), ("user/ann@1", "user/ann@1"), ("user/bob", "base")):
        reply = await complete(room, model=model, prompt="<|end|>Tea")
        assert isinstance(reply.content, dict)
        assert (reply.model, reply.content["mindprint"]["model"]) == (root, root)
        assert (reply.content["model"], reply.content["choices"]) == (model, [{"text": root}])
        assert room.backend.bodies[-1]["prompt"] == "<|end|>Tea", "as it was sent"
    assert room.outcomes() == {"fine": 2}


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("gpt-4o", "model_not_found"),
        ("user/nobody", "user_not_found"),
        ("user/ann@7", "version_not_found"),
        ("cohort/none", "cohort_not_found"),
    ],
)
async def test_an_unknown_model_is_refused(room: Room, model: str, code: str) -> None:
    async def stay() -> None:
        await asyncio.Event().wait()

    for stream in (False, True):
        for ask in (complete(room, model=model, stream=stream), room.reply({"model": model, "stream": stream})):
            with pytest.raises(NotFound) as error:
                await ask
            assert (error.value.code, error.value.param) == (code, "model")
            assert error.value.message.startswith(f"there is no model '{model}'")
            assert "GET /v1/models lists" in error.value.message
        responses = ResponseService(room.chat)
        with pytest.raises(NotFound) as error:
            await responses.create({"model": model, "input": "Tea?", "stream": stream}, wait_for_disconnect=stay)
        assert f"'{model}'" in error.value.message
    with pytest.raises(NotFound) as error:
        await room.services.models.get(model)
    assert error.value.message.startswith(f"there is no model '{model}'")
    assert "GET /v1/models lists" in error.value.message


@pytest.mark.parametrize("model", ["x" * 5000, ["base"], 7, "", {"a": "b" * 5000}])
async def test_an_odd_model_is_named_in_a_short_message(room: Room, model: object) -> None:
    with pytest.raises(NotFound) as error:
        await complete(room, model=model)
    assert error.value.message.startswith(f"there is no model {repr(model)[:100]}")
    assert len(error.value.message) < 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"mode": "personal"}, "mode"),
        ({"messages": []}, "messages"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"seed": 2**70}, "seed"),
        ({"prompt": ["Tea"] * 129, "n": 2}, "prompt"),
        ({"prompt": ["Tea"] * 257}, "prompt"),
    ],
)
async def test_a_field_is_refused_by_its_name(room: Room, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid, match=param) as error:
        await complete(room, **body)
    assert error.value.param == param
    assert room.backend.bodies == []


@pytest.mark.parametrize("body", [{"suffix": ""}, {"best_of": 1}, {"best_of": 2, "n": 2}])
async def test_fields_that_ask_for_nothing_are_taken(room: Room, body: dict[str, Any]) -> None:
    await complete(room, **body)
    assert "suffix" not in room.backend.bodies[0]


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("Tea", 1), ([1, 2, 3], 1), (["Tea", "Coffee"], 2), ([[1, 2], [3]], 2)],
)
def test_prompts_are_texts_or_token_ids(prompt: Any, count: int) -> None:
    assert count_prompts(prompt) == count


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], ["Tea", 1], [True], {"a": 1}, 7])
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(Invalid, match="prompt must be a text"):
        count_prompts(prompt)


async def test_each_prompt_takes_slots_for_its_answers(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    enter = room.completions._admission.enter

    def counted(answers: int) -> Any:
        taken.append(answers)
        return enter(answers)

    monkeypatch.setattr(room.completions._admission, "enter", counted)
    await complete(room, prompt=["Tea", "Coffee"], n=3)
    await complete(room, prompt=[1, 2, 3])
    assert taken == [6, 1]


async def test_a_stream_says_who_answers_in_its_first_chunk_and_counts_tokens(room: Room) -> None:
    reply = await complete(room, model="user/ann", stream=True)
    assert not isinstance(reply.content, dict)
    lines = [line async for line in reply.content]
    first, second = (json.loads(line[6:]) for line in lines[:2])
    assert lines[2:] == ["data: [DONE]\n\n"]
    assert first["mindprint"]["model"] == reply.model == "user/ann@1"
    assert "mindprint" not in second
    assert first["model"] == second["model"] == "user/ann"
    assert first["choices"] == second["choices"] == [{"text": "user/ann@1"}]
    assert room.counted("generated_tokens_total", tenant=current_tenant()) == 2
    assert room.outcomes() == {"fine": 1}


async def test_the_tokens_of_a_whole_answer_are_counted(room: Room) -> None:
    await complete(room)
    assert room.counted("generated_tokens_total", tenant=current_tenant()) == 3


async def test_a_failure_counts_against_the_version_and_no_other_model_answers(room: Room) -> None:
    room.backend.broken["user/ann@1"] = RuntimeError("broken kernel")
    with pytest.raises(RuntimeError):
        await complete(room, model="user/ann")
    room.backend.broken["user/ann@1"] = BackendRefused(400, "max_tokens")
    with pytest.raises(ServerError, match="max_tokens"):
        await complete(room, model="user/ann")
    assert room.outcomes() == {"failed": 1}


async def test_a_caller_who_leaves_ends_the_work(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def never(*_: Any, **__: Any) -> dict[str, Any]:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    async def leave() -> None:
        await began.wait()

    monkeypatch.setattr(room.backend, "complete_text", never)
    with pytest.raises(ClientGone):
        await room.completions.complete({"model": "base", "prompt": "Tea"}, wait_for_disconnect=leave)
    assert ended.is_set()
