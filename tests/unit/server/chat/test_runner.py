"""How answers end: time limits, readers who stall or leave, and what is counted for a version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from chat_room import EMPTY, LOOP, Room, event, joined, lines
from mindprint_server.adapters.service import OtherBaseModel
from mindprint_server.chat.runner import ChatReply
from mindprint_server.exceptions import BackendRefused, Invalid
from mindprint_server.store import VersionRecord
from uploads import published

STREAM: dict[str, Any] = {"model": "user/ann", "stream": True}


async def complete(room: Room, **body: Any) -> ChatReply:
    async def stay() -> None:
        await asyncio.Event().wait()

    return await room.completions.complete({"model": "user/ann", "prompt": "Tea", **body}, wait_for_disconnect=stay)


async def ask(room: Room, route: str, **body: Any) -> ChatReply:
    return await (complete(room, **body) if route == "completions" else room.reply({"model": "user/ann", **body}))


BOTH = pytest.mark.parametrize("route", ["chat", "completions"])


def answer_with(room: Room, monkeypatch: pytest.MonkeyPatch, lines_of: Any) -> None:
    """Let the backend stream what `lines_of` yields, on both routes."""

    async def stream(*_: Any, **__: Any) -> AsyncGenerator[str]:
        return lines_of()  # type: ignore[no-any-return]

    monkeypatch.setattr(room.backend, "complete", stream)
    monkeypatch.setattr(room.backend, "complete_text", stream)


@BOTH
async def test_reader_who_stalls_gives_the_turn_and_the_version_back(
    room: Room, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setattr(room.services.settings, "stream_max_stall_s", 0.01)

    async def endless() -> AsyncGenerator[str]:
        while True:
            yield event(choices=[{"index": 0, "text": "a", "delta": {"content": "a"}}])

    answer_with(room, monkeypatch, endless)
    reply = await ask(room, route, stream=True)
    async with asyncio.timeout(60):
        while room.services.adapters.residency._requests:  # noqa: ASYNC110 (it has no event)
            await asyncio.sleep(0.001)
    assert (room.chat._admission._queue.held, room.completions._admission._queue.held) == (0, 0)
    *_, last = await lines(reply)
    assert last["error"]["code"] == "reader_stalled"
    assert room.outcomes() == {}
    assert room.counted("refusals_total", tenant="default", code="reader_stalled") == 1


@BOTH
async def test_time_limit_of_a_whole_answer_is_named_where_the_engine_turns_it_into_an_error(
    room: Room, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    async def like_vllm(*_: Any, **__: Any) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise BackendRefused(400, "Client disconnected") from None
        return {}

    monkeypatch.setattr(room.services.settings, "request_timeout_s", 0.05)
    monkeypatch.setattr(room.backend, "complete", like_vllm)
    monkeypatch.setattr(room.backend, "complete_text", like_vllm)
    with pytest.raises(TimeoutError):
        await ask(room, route)


@BOTH
async def test_wrong_value_that_a_stream_finds_is_not_the_versions_fault(
    room: Room, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    async def refuse() -> AsyncGenerator[str]:
        raise BackendRefused(400, "bad_words")
        yield ""  # type: ignore[unreachable]

    answer_with(room, monkeypatch, refuse)
    with pytest.raises(BackendRefused):
        await ask(room, route, stream=True)
    assert room.outcomes() == {}


@BOTH
async def test_version_is_let_go_after_the_engine_has_stopped_writing_with_it(
    room: Room, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    seen: list[str] = []
    unload = room.engine.unload

    async def unloading(adapter: Any) -> None:
        seen.append("unloaded")
        await unload(adapter)

    async def endless() -> AsyncGenerator[str]:
        try:
            while True:
                yield event(choices=[{"index": 0, "text": "a", "delta": {"content": "a"}}])
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    monkeypatch.setattr(room.engine, "unload", unloading)
    answer_with(room, monkeypatch, endless)
    reply = await ask(room, route, stream=True)
    assert not isinstance(reply.content, dict)
    await anext(reply.content)
    await room.services.adapters.promote("user/ann", None)
    await reply.content.aclose()
    await room.services.adapters.residency.stop()
    assert seen == ["closed", "unloaded"]


@pytest.mark.parametrize("sampling", [{"repetition_penalty": 3.0}, {"temperature": 2.0}, {"thinking_temperature": 1.5}])
async def test_collapse_under_the_callers_sampling_blames_no_version(room: Room, sampling: dict[str, Any]) -> None:
    room.engine.thinks["user/ann@1"] = LOOP  # type: ignore[assignment]
    reply = await room.ask(**sampling)
    assert reply["mindprint"]["fallback"] == "base"
    assert room.outcomes() == {}


async def test_collapse_counts_where_the_sampling_is_neutral(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = LOOP  # type: ignore[assignment]
    await room.ask(temperature=0, repetition_penalty=1.0)
    assert room.outcomes() == {"collapsed": 1}


async def test_collapse_counts_where_its_fallback_does_not_finish(room: Room) -> None:
    room.engine.thinks |= {"user/ann@1": EMPTY, "base": RuntimeError("broken")}  # type: ignore[dict-item]
    with pytest.raises(RuntimeError):
        await room.ask()
    assert room.outcomes() == {"collapsed": 1}


async def test_scored_prompt_says_nothing_about_a_version(room: Room) -> None:
    await complete(room, echo=True, max_tokens=0)
    assert room.outcomes() == {}


@BOTH
async def test_request_id_is_bounded(room: Room, route: str) -> None:
    for wrong in ("a" * 65, "a b", "", 7):
        with pytest.raises(Invalid, match="1 to 64") as refused:
            await ask(room, route, request_id=wrong)
        assert refused.value.param == "request_id"
    await ask(room, route, request_id="a" * 64)


async def test_stream_of_a_raw_prompt_must_be_true_or_false(room: Room) -> None:
    with pytest.raises(Invalid) as refused:
        await complete(room, stream="false")
    assert refused.value.param == "stream"
    await complete(room, use_beam_search=False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"echo": True, "logprobs": True, "top_logprobs": 1}, "echo"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"return_prompt_text": True}, "return_prompt_text"),
    ],
)
async def test_chat_does_not_show_its_prompt(room: Room, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as refused:
        await room.ask(mode="direct", **body)
    assert refused.value.param == param


async def test_no_other_model_answers_a_raw_prompt(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(version: VersionRecord, *_: Any) -> Any:
        raise OtherBaseModel("user/ann@1", "sha256:a", "sha256:b")

    monkeypatch.setattr(room.services.adapters, "_load", refuse)
    with pytest.raises(OtherBaseModel):
        await complete(room)
    assert (await room.ask(mode="direct"))["mindprint"]["model"] == "base"


async def test_stream_ends_where_its_work_is_stopped_by_others(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.services.settings, "stream_max_silence_s", 0.01)
    room.engine.may_go_on.clear()
    reply = await room.reply({**STREAM, "mode": "personal"})
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == "answer-stream"]
    task.cancel()
    async with asyncio.timeout(60):
        *_, last = await lines(reply)
    assert last["error"]["code"] == "internal_error"


async def test_continued_message_keeps_its_white_space(room: Room) -> None:
    continued = {"continue_final_message": True, "add_generation_prompt": False}
    whole = await room.ask("base", "direct", **continued)
    events = await lines(await room.reply({"model": "base", "stream": True, **continued}))
    assert whole["choices"][0]["message"]["content"] == joined(events, "content") == " base"


@pytest.mark.parametrize(("share", "root"), [(0.4, "user/ann@1"), (0.6, "user/ann@2")])
async def test_root_is_the_version_that_answers_most_requests(
    room: Room, tmp_path: Path, share: float, root: str
) -> None:
    await published(room.services, tmp_path)
    await room.services.adapters.rollback("user/ann")
    await room.services.adapters.set_canary("user/ann", 2, share)
    assert (await room.services.models.get("user/ann"))["root"] == root
