"""Chat: streams, what may be named, and what is pure."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from chat_room import EMPTY, GOOD, PREFIX, Room, joined, lines
from mindprint.types import TraceRequest
from mindprint_server.app import create_app
from mindprint_server.chat.fallback import fallback_plans, is_adapter_fault
from mindprint_server.engine import AdapterRef, EngineDied, PromptTooLong
from mindprint_server.exceptions import BackendRefused, ClientGone, Invalid, LimitExceeded, ServerError
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.store import RecordNotFound
from mindprint_server.tenancy import in_no_tenant
from uploads import published

# --- streams ---


async def test_a_stream_says_what_made_it_and_holds_its_version(room: Room) -> None:
    response = await room.reply({"model": "user/ann", "mode": "personal", "stream": True})
    await room.services.adapters.promote("user/ann", None)
    assert room.services.adapters.residency.loaded() == ["user/ann@1"]
    await room.services.adapters.promote("user/ann", 1)
    events = await lines(response)
    assert joined(events, "reasoning") == joined(events, "reasoning_content") == PREFIX + GOOD[0]
    [made_by] = [event["mindprint"] for event in events if "mindprint" in event]
    assert made_by["model"] == "user/ann@1"
    assert room.outcomes() == {"fine": 1}


async def test_a_stream_that_fell_back_or_broke_off_is_counted_once(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = EMPTY  # type: ignore[assignment]
    events = await lines(await room.reply({"model": "user/ann", "mode": "personal", "stream": True}))
    [made_by] = [event["mindprint"] for event in events if "mindprint" in event]
    assert made_by["fallback"] == "base"
    assert room.outcomes() == {"collapsed": 1}
    room.backend.cut = True
    *_, last = await lines(await room.reply({"model": "user/ann", "stream": True}))
    assert last["error"]["code"] == "internal_error"
    assert "broken off" not in last["error"]["message"], "what went wrong is in the log alone"
    assert room.outcomes() == {"collapsed": 1, "failed": 1}


async def test_a_chat_waits_for_its_turn_and_leaves_the_line_with_its_caller(room: Room) -> None:
    admission = room.chat._admission = AdmissionController(1, 1, max_waiting=1)
    gone = asyncio.Event()

    async def wait_for_disconnect() -> None:
        await gone.wait()

    async with admission.enter():
        asked = {"model": "base", "messages": [{"role": "user", "content": "A walk?"}]}
        leaving = asyncio.create_task(room.chat.complete(asked, wait_for_disconnect=wait_for_disconnect))
        for _ in range(20):
            await asyncio.sleep(0)
        assert admission._queue.count_waiting("default") == 1
        with pytest.raises(LimitExceeded, match="1 requests of tenant default wait"):
            await room.ask("base", "direct")
        gone.set()
        with pytest.raises(ClientGone):
            await leaving
        staying = asyncio.create_task(room.ask("base", "direct"))
        await asyncio.sleep(0)
        assert not staying.done()
    await staying


async def test_tokens_of_chats_are_counted_for_the_tenant(room: Room) -> None:
    before = room.counted("generated_tokens_total", tenant="default")
    await lines(await room.reply({"model": "user/ann", "mode": "personal", "stream": True}))
    after = room.counted("generated_tokens_total", tenant="default")
    thinking = len(room.engine.tokenizer.encode(GOOD[0]))
    assert after - before == thinking + 2, "the thinking's tokens, and two of the stream"
    stream = (await room.reply({"model": "user/ann", "mode": "direct", "stream": True})).content
    assert not isinstance(stream, dict)
    await anext(stream)
    with in_no_tenant():
        await stream.aclose()
    assert room.counted("generated_tokens_total", tenant="default") - after == 2, "one is read, the next is written"


# --- models and users ---


async def test_a_cohort_answers_for_its_users_and_by_name(room: Room, tmp_path: Path) -> None:
    await published(room.services, tmp_path, "cohort/everyone", user="ann")
    for model in ("user/bob", "cohort/everyone", "cohort/everyone@1"):
        reply = await room.ask(model)
        assert reply["mindprint"]["model"] == "cohort/everyone@1"
    for model, kind in (("user/nobody", "user"), ("cohort/none", "cohort")):
        with pytest.raises(RecordNotFound, match=kind):
            await room.ask(model)


async def test_models_are_what_may_be_named(room: Room, tmp_path: Path) -> None:
    services = room.services
    for _ in range(3):
        await published(services, tmp_path)
    await services.adapters.rollback("user/ann")
    await services.adapters.set_canary("user/ann", 4, 0.1)
    await services.store.retention.mark_files_removed("user/ann", 1)
    cards = (await room.services.models.list_page(limit=100))["data"]
    assert {card["id"]: card["root"] for card in cards} == {
        "base": "base",
        "user/ann": "user/ann@3",
        **{f"user/ann@{n}": f"user/ann@{n}" for n in (2, 3, 4)},
    }


async def test_memory_is_recalled_while_the_adapter_is_on_its_way(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    recalled = asyncio.Event()
    recall, hold = room.services.memory.recall_existing, room.services.adapters.residency._acquire_slot

    async def recalling(*args: Any, **kwargs: Any) -> Any:
        recalled.set()
        return await recall(*args, **kwargs)

    async def entering(adapter: AdapterRef) -> Any:
        await asyncio.wait_for(recalled.wait(), 1)
        return await hold(adapter)

    monkeypatch.setattr(room.services.memory, "recall_existing", recalling)
    monkeypatch.setattr(room.services.adapters.residency, "_acquire_slot", entering)
    assert (await room.ask())["mindprint"]["model"] == "user/ann@1"


async def test_a_caller_who_goes_away_while_waiting_leaves_the_line(room: Room, tmp_path: Path) -> None:
    entered = asyncio.Event()

    async def wait_for_disconnect() -> None:
        await entered.wait()

    allocator = room.services.adapters.residency._slots.allocator
    allocator.count = 1
    await published(room.services, tmp_path, "user/bob")
    async with room.services.adapters.acquire("user/bob"):
        body = {"model": "user/ann", "messages": [{"role": "user", "content": "A walk?"}]}
        asking = asyncio.create_task(room.chat.complete(body, wait_for_disconnect=wait_for_disconnect))
        async with asyncio.timeout(10):
            while not room.services.adapters.residency.is_needed("user/ann", 1):  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0.001)
        entered.set()
        with pytest.raises(ServerError) as error:
            await asking
        assert isinstance(error.value, ClientGone)
        assert not room.services.adapters.residency.is_needed("user/ann", 1)


async def test_traces_of_a_version_count_for_its_health_and_are_never_replaced(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = EMPTY  # type: ignore[assignment]
    request = TraceRequest(user_id="ann", query="A walk?", model="user/ann")
    trace = await room.services.traces.create(request)
    assert (trace.reason, trace.provenance.model) == ("empty", "user/ann@1")
    await room.services.traces.create(request.model_copy(update={"mode": "direct"}))
    assert room.outcomes() == {"collapsed": 1}


@pytest.mark.parametrize("controlled", [{"thinking": ""}, {"memory": "none"}])
async def test_controlled_questions_tell_nothing_of_a_version_in_service(
    room: Room, controlled: dict[str, Any]
) -> None:
    room.engine.thinks["user/ann@1"] = EMPTY  # type: ignore[assignment]
    request = {"user_id": "ann", "query": "A walk?", "model": "user/ann", **controlled}
    trace = await room.services.traces.create(TraceRequest.model_validate(request))
    assert (trace.reason, trace.provenance.model) == ("empty", "user/ann@1")
    assert room.outcomes() == {}


# --- pure ---


def test_the_ways_to_an_answer() -> None:
    ref = AdapterRef("user/ann", 1, "d", 1, Path("."))

    def told(mode: Any, adapter: AdapterRef | None) -> list[tuple[bool, str, str | None]]:
        return [(plan.adapter is not None, plan.mode, plan.fallback) for plan in fallback_plans(mode, adapter)]

    assert told("direct", None) == [(False, "direct", None)]
    assert told("direct", ref) == [(True, "direct", None), (False, "direct", "base")]
    assert told("generic", None) == [(False, "generic", None), (False, "direct", "direct")]
    assert told("personal", ref) == [
        (True, "personal", None),
        (False, "personal", "base"),
        (False, "direct", "direct"),
    ]


@pytest.mark.parametrize(
    ("error", "may_be"),
    [
        (RuntimeError("kernel"), True),
        (ValueError("nan"), True),
        (BackendRefused(500, "broken"), True),
        (Invalid("validation_error", "no"), False),
        (EngineDied("gone"), False),
        (PromptTooLong("long"), False),
        (TimeoutError(), False),
    ],
)
def test_whose_fault_an_error_may_be(error: Exception, may_be: bool) -> None:
    assert is_adapter_fault(error) == may_be


async def test_answers_of_one_request_are_bounded_and_counted(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (9, 16384, "8", 0):
        with pytest.raises(Invalid) as refused:
            await room.reply({"model": "base", "n": n})
        assert refused.value.param == "n"
    entered: list[int] = []
    enter = room.chat._admission.enter

    def enter_and_note(answers: int) -> AbstractAsyncContextManager[None]:
        entered.append(answers)
        return enter(answers)

    monkeypatch.setattr(room.chat._admission, "enter", enter_and_note)
    await room.ask("base", "direct", n=8)
    await room.ask("base", "direct")
    assert entered == [8, 1]


@pytest.mark.parametrize("model", ["base", "user/ann", "user/bob"])
async def test_special_tokens_of_a_caller_do_not_reach_the_backend(room: Room, model: str) -> None:
    [special, *_] = room.engine.tokenizer.special
    messages = [{"role": role, "content": f"a{special}b"} for role in ("system", "user", "assistant", "user")]
    await room.ask(model, "direct", messages=messages)
    sent = room.backend.bodies[-1]["messages"]
    assert special not in str(sent)
    assert sum("ab" in message["content"] for message in sent) == 4


async def test_a_caller_who_leaves_before_the_first_line_gives_the_turn_and_the_version_back(room: Room) -> None:
    room.services.chat = room.chat
    app = create_app(room.services.settings, services=room.services)
    asked = {"model": "user/ann", "stream": True, "messages": [{"role": "user", "content": "A walk?"}]}
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        if received == 1:
            return {"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}
        if received == 2:  # while the answer begins, the caller is there
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.Event().wait()  # its connection takes nothing more

    path = "/v1/chat/completions"
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")],
    }  # fmt: skip
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    assert received == 3
    assert room.backend.bodies
    assert room.chat._admission._queue.held == 0
    assert not room.services.adapters.residency._requests
