"""How an answer is come by: adapter and memory at once, and what happens when a version's thinking collapses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from lives import Gate
from mindprint.types import QueryKind, TraceRequest
from mindprint_server.admission import AdmissionController
from mindprint_server.chat.fallback import fallback_plans, is_adapter_fault
from mindprint_server.chat.service import ChatReply, ChatService
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, EngineDied, GenerationOutput, Priority, PromptTooLong, Sampling
from mindprint_server.engine.base import FinishReason
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import BackendRefused, ClientGone, Invalid, ServerError
from mindprint_server.gate import checks
from mindprint_server.settings import Settings
from mindprint_server.store import RecordNotFound
from mindprint_server.wiring import Container
from samples import engagement
from scripted import serving
from uploads import published

GOOD = (" they walked by the quiet lake before and liked it", "stop")
LOOP = (" the lake the lake the lake the lake the lake the lake the lake", "loop")
EMPTY = ("", "stop")
PREFIX = "What this user has shown:"
Written = tuple[str, FinishReason]


class Engine(FakeEngine):
    """Thinks what `thinks` has for a model's name, or raises it; the base's is there for all."""

    def __init__(self, folder: Path) -> None:
        super().__init__(model_path=folder)
        self.thinks: dict[str, Written | Exception] = {"base": GOOD}  # type: ignore[dict-item]

    async def generate(
        self, prompt_ids: Any, sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        text = self.thinks.get(adapter.name if adapter else "base", GOOD)
        if isinstance(text, Exception):
            raise text
        return GenerationOutput(text[0], (1,), text[1], 0, 0)  # type: ignore[arg-type]


class Backend:
    """Answers with the name of who was asked, as a whole or as a stream; fails for those in `broken`."""

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self.broken: dict[str, Exception] = {}
        self.cut = False

    async def complete(
        self, body: Mapping[str, Any], adapter: AdapterRef | None
    ) -> dict[str, Any] | AsyncIterator[str]:
        name = adapter.name if adapter else "base"
        if name in self.broken:
            raise self.broken[name]
        self.bodies.append(body)
        if not body.get("stream"):
            return {"choices": [{"message": {"role": "assistant", "content": f" {name}"}}]}
        return self._lines(name)

    async def _lines(self, name: str) -> AsyncIterator[str]:
        for _ in range(2):
            yield f"data: {json.dumps({'choices': [{'delta': {'content': name}}]})}\n\n"
            if self.cut:
                raise RuntimeError("broken off")
        yield "data: [DONE]\n\n"


class Room:
    def __init__(self, services: Container, engine: Engine) -> None:
        self.services, self.engine, self.backend = services, engine, Backend()
        self.chat = ChatService(
            ServerContext(services.settings, services.store, engine, services.metrics),
            memory=services.memory,
            adapters=services.adapters,
            auto=services.auto,
            admission=AdmissionController(9, 1),
            backend=self.backend,
        )

    async def ask(self, model: str = "user/ann", mode: str = "personal", **body: Any) -> dict[str, Any]:
        """The reply of a caller who stays, with its `mindprint` field."""
        reply = await self.reply({"model": model, "mode": mode, **body})
        assert isinstance(reply.content, dict)
        assert reply.model == reply.content["mindprint"]["model"]
        return reply.content

    async def reply(self, body: dict[str, Any]) -> ChatReply:
        async def wait_for_disconnect() -> None:
            await asyncio.Event().wait()

        messages = [{"role": "user", "content": "A walk by the lake?"}]
        return await self.chat.complete({"messages": messages, **body}, wait_for_disconnect=wait_for_disconnect)

    def counted(self, name: str, **labels: str) -> float:
        return self.services.metrics.registry.get_sample_value(f"mindprint_{name}", labels) or 0.0

    def outcomes(self) -> dict[str, float]:
        kinds = ("fine", "collapsed", "failed")
        return {kind: count for kind in kinds if (count := self.counted("adapter_answers_total", outcome=kind))}


@pytest.fixture
async def room(settings: Settings, base_folder: Path, tmp_path: Path) -> AsyncIterator[Room]:
    """Ann has a live version, bob none."""
    async with AsyncExitStack() as stack:
        engine = Engine(base_folder)
        services = await stack.enter_async_context(serving(settings, engine))
        await services.store.engagements.add("ann", [engagement(n + 100) for n in range(3)])
        await services.store.engagements.add("bob", [engagement(0)])
        await published(services, tmp_path)
        yield Room(services, engine)


def thought(reply: dict[str, Any]) -> str | None:
    return reply["choices"][0]["message"].get("reasoning_content")  # type: ignore[no-any-return]


async def test_a_version_thinks_and_answers(room: Room) -> None:
    reply = await room.ask()
    assert thought(reply) == PREFIX + GOOD[0]
    made_by = reply["mindprint"]
    assert (made_by["model"], made_by["thinking"], made_by["mode"], made_by["fallback"]) == (
        "user/ann@1",
        "user/ann@1",
        "personal",
        None,
    )
    assert reply["choices"][0]["message"]["content"] == "user/ann@1"
    assert room.outcomes() == {"fine": 1}
    read = room.backend.bodies[0]["messages"]
    assert "walk number 102" in read[0]["content"]
    assert read[-1]["role"] == "assistant"


@pytest.mark.parametrize("collapse", [LOOP, EMPTY, (" too short", "stop")])
async def test_thinking_that_collapsed_is_done_again_by_the_base(room: Room, collapse: Written) -> None:
    room.engine.thinks["user/ann@1"] = collapse
    reply = await room.ask()
    made_by = reply["mindprint"]
    assert thought(reply) == PREFIX + GOOD[0]
    assert (made_by["model"], made_by["thinking"], made_by["mode"], made_by["fallback"]) == (
        "base",
        "base",
        "personal",
        "base",
    )
    assert made_by["adapter_digest"] is None
    assert reply["choices"][0]["message"]["content"] == "base", "no answer is of two models"
    assert room.counted("fallbacks_total", to="base") == 1
    assert room.outcomes() == {"collapsed": 1}


async def test_where_the_base_collapses_too_it_answers_without_thinking(room: Room) -> None:
    room.engine.thinks = {"user/ann@1": EMPTY, "base": LOOP}  # type: ignore[dict-item]
    reply = await room.ask()
    made_by = reply["mindprint"]
    assert thought(reply) is None
    assert (made_by["model"], made_by["thinking"], made_by["mode"], made_by["fallback"]) == (
        "base",
        None,
        "direct",
        "direct",
    )
    assert room.counted("fallbacks_total", to="direct") == 1
    messages = room.backend.bodies[0]["messages"]
    assert messages[-1]["role"] == "user"
    assert messages == (await _direct(room))["messages"]


async def _direct(room: Room) -> Mapping[str, Any]:
    await room.ask(mode="direct")
    return room.backend.bodies[-1]


async def test_the_base_alone_falls_back_to_a_direct_answer(room: Room) -> None:
    room.engine.thinks["base"] = LOOP  # type: ignore[assignment]
    for model in ("base", "user/bob"):
        reply = await room.ask(model)
        assert (reply["mindprint"]["model"], reply["mindprint"]["fallback"]) == ("base", "direct")
    assert room.counted("fallbacks_total", to="base") == 0
    assert room.outcomes() == {}


async def test_a_version_that_fails_is_replaced_by_the_base(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = RuntimeError("broken kernel")
    assert (await room.ask())["mindprint"]["fallback"] == "base"
    room.backend.broken["user/ann@1"] = BackendRefused(500, "broken")
    for mode in ("direct", "generic"):
        assert (await room.ask(mode=mode))["mindprint"]["model"] == "base"
    assert room.outcomes() == {"failed": 3}


async def test_where_the_base_fails_too_it_is_not_the_version_s_fault(room: Room) -> None:
    room.backend.broken = {"user/ann@1": RuntimeError("no"), "base": RuntimeError("no")}
    with pytest.raises(RuntimeError):
        await room.ask(mode="direct")
    room.backend.broken = {"user/ann@1": BackendRefused(400, "max_tokens")}
    with pytest.raises(ServerError, match="max_tokens"):
        await room.ask(mode="direct")
    assert room.outcomes() == {}
    assert room.counted("resident_adapters") == 1


async def test_a_version_that_keeps_collapsing_is_withdrawn_and_nothing_is_lost(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = LOOP  # type: ignore[assignment]
    replies = [await room.ask() for _ in range(room.services.settings.health_min_answers + 3)]
    fallbacks = [reply["mindprint"]["fallback"] for reply in replies]
    assert fallbacks == ["base"] * room.services.settings.health_min_answers + [None] * 3
    assert (await room.services.store.versions.get("user/ann", 1)).state == "refused"
    assert room.counted("versions_withdrawn_total", check="service_collapsed") == 1
    assert room.services.adapters.residency.loaded() == []


# --- mode auto ---


def examined(room: Room, gains: list[float], kind: QueryKind = "open") -> None:
    """The next version's gate finds this of its thinking."""
    gate = Gate()
    gate.checks = [checks.check_thinking_gain(kind, gains, confidence=0.95)]
    room.services.adapters._publisher._gate = gate


@pytest.mark.parametrize(
    ("gains", "kind", "mode", "reason"),
    [
        ([0.5, 0.6] * 8, "open", "personal", "pays"),
        ([-0.5, 0.5] * 8, "open", "direct", "not_shown"),
        ([0.5, 0.6] * 8, "closed", "direct", "too_few"),
    ],
)
async def test_auto_thinks_where_the_gate_found_that_it_pays(
    room: Room, tmp_path: Path, gains: list[float], kind: QueryKind, mode: str, reason: str
) -> None:
    examined(room, gains, kind)
    await published(room.services, tmp_path)
    reply = await room.ask(mode="auto")
    made_by = reply["mindprint"]
    assert (made_by["model"], made_by["mode"]) == ("user/ann@2", mode)
    assert ("thinking pays" in made_by["mode_reason"]) == (mode == "personal")
    assert thought(reply) == (PREFIX + GOOD[0] if mode == "personal" else None)
    assert room.counted("auto_decisions_total", mode=mode, reason=reason) == 1


@pytest.mark.parametrize(("model", "reason"), [("base", "no_user"), ("user/bob", "too_few")])
async def test_auto_answers_at_once_where_nothing_is_known(room: Room, model: str, reason: str) -> None:
    reply = await room.ask(model, "auto")
    assert (reply["mindprint"]["mode"], thought(reply)) == ("direct", None)
    assert room.counted("auto_decisions_total", mode="direct", reason=reason) == 1
    auto, direct = room.backend.bodies[-1], await room.ask(model, "direct")
    assert auto == room.backend.bodies[-1], "it is the same answer"
    assert direct["mindprint"]["mode_reason"] is None


async def test_auto_by_a_cohorts_version_answers_at_once(room: Room, tmp_path: Path) -> None:
    examined(room, [0.5, 0.6] * 8)
    await published(room.services, tmp_path, "cohort/everyone", user="ann")
    for model in ("user/bob", "cohort/everyone"):
        assert (await room.ask(model, "auto"))["mindprint"]["mode"] == "direct"
    assert room.counted("auto_decisions_total", mode="direct", reason="cohort") == 2


async def test_a_stream_says_why_it_thought(room: Room, tmp_path: Path) -> None:
    examined(room, [0.5, 0.6] * 8)
    await published(room.services, tmp_path)
    first, _ = await lines(await room.reply({"model": "user/ann", "mode": "auto", "stream": True}))
    assert first["mindprint"]["mode_reason"].startswith("thinking pays")


async def test_a_mode_that_does_not_exist(room: Room) -> None:
    with pytest.raises(ServerError, match="direct, generic, personal or auto"):
        await room.ask(mode="both")


# --- streams ---


async def lines(reply: ChatReply) -> list[dict[str, Any]]:
    assert not isinstance(reply.content, dict)
    texts = [line async for line in reply.content]
    return [json.loads(line[6:]) for line in texts if "DONE" not in line]


async def test_a_stream_says_what_made_it_and_holds_its_version(room: Room) -> None:
    response = await room.reply({"model": "user/ann", "mode": "personal", "stream": True})
    await room.services.adapters.promote("user/ann", None)
    assert room.services.adapters.residency.loaded() == ["user/ann@1"]
    await room.services.adapters.promote("user/ann", 1)
    first, second = await lines(response)
    assert first["mindprint"]["model"] == "user/ann@1"
    assert first["choices"][0]["delta"]["reasoning_content"] == PREFIX + GOOD[0]
    assert "mindprint" not in second
    assert room.outcomes() == {"fine": 1}


async def test_a_stream_that_fell_back_or_broke_off_is_counted_once(room: Room) -> None:
    room.engine.thinks["user/ann@1"] = EMPTY  # type: ignore[assignment]
    first, _ = await lines(await room.reply({"model": "user/ann", "mode": "personal", "stream": True}))
    assert first["mindprint"]["fallback"] == "base"
    assert room.outcomes() == {"collapsed": 1}
    room.backend.cut = True
    response = await room.reply({"model": "user/ann", "stream": True})
    with pytest.raises(RuntimeError):
        await lines(response)
    assert room.outcomes() == {"collapsed": 1, "failed": 1}


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
    cards = (await room.chat.models())["data"]
    assert {card["id"]: card["root"] for card in cards} == {
        "base": "base",
        "user/ann": "user/ann@3",
        **{f"user/ann@{n}": f"user/ann@{n}" for n in (2, 3, 4)},
    }


async def test_memory_is_recalled_while_the_adapter_is_on_its_way(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    recalled = asyncio.Event()
    recall, hold = room.services.memory.recall, room.services.adapters.residency._acquire_slot

    async def recalling(*args: Any, **kwargs: Any) -> Any:
        recalled.set()
        return await recall(*args, **kwargs)

    async def entering(adapter: AdapterRef) -> Any:
        await asyncio.wait_for(recalled.wait(), 1)
        return await hold(adapter)

    monkeypatch.setattr(room.services.memory, "recall", recalling)
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

    def enter_and_note(answers: int) -> AbstractContextManager[None]:
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
