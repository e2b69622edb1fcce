"""Examinations on an engine whose models behave as a test tells them to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from builders import context_builder
from mindprint.general_questions import QUESTIONS
from mindprint.types import BatchRequest, Check
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, GenerationOutput, Priority, Sampling
from mindprint_server.engine.types import FinishReason
from mindprint_server.gate import Gate
from mindprint_server.gate.gate import interleave_newest_first
from mindprint_server.gate.measurements import ModelMeasurements
from mindprint_server.memory import MemoryService
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import Store
from mindprint_server.wiring import Services
from samples import engagement
from scripted import Scripted

THOUGHT = "this user walks by the lake on most days"
COUNT = 20


@dataclass
class Model:
    """How one version, or the base, behaves."""

    score: float = -1.0
    """log p of a real answer to what a user was asked; of another choice it is -1."""
    after: float | None = None
    """The same after a thinking."""
    general: float = -0.5
    thought: str = THOUGHT
    finish: FinishReason = "stop"


@dataclass
class Models(Scripted):
    """One engine, several models."""

    by_name: dict[str, Model] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Scripted.__init__(self)
        self.calls: Counter[str] = Counter()
        self.priorities: set[Priority] = set()
        self.thinking_on: Counter[str] = Counter()
        self.thinks_now = asyncio.Event()
        self.running = self.most = 0

    def model(self, adapter: AdapterRef | None) -> Model:
        return self.by_name.setdefault(adapter.name if adapter else "base", Model())

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        self.running += 1
        self.most = max(self.most, self.running)
        self.thinks_now.set()
        await self._asked(adapter, priority)
        self.running -= 1
        prompt = self.tokenizer.decode(prompt_ids)
        assert prompt.endswith("<think>\n"), "nothing helps it to begin"
        assert sampling.detect_loops
        self.thinking_on["nobody" if "Nothing is known" in prompt else "somebody"] += 1
        model = self.model(adapter)
        return self.written(model.thought, model.finish)

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        await self._asked(adapter, priority)
        before, model = self.tokenizer.decode(prompt_ids), self.model(adapter)
        tokens = [self.tokenizer.decode([token]).strip() for token in token_ids]
        if "Nothing is known" in before:
            right = {question.right.split()[0] for question in QUESTIONS if question.query in before}
            return [model.general if token in right else -1.0 for token in tokens]
        score = model.after if model.after is not None and "</think>" in before else model.score
        number = int(before.rsplit("walk number ", 1)[1].split("?")[0])
        return [score if token == ("yes", "no")[number % 2] or len(tokens) == 1 else -1.0 for token in tokens]

    async def _asked(self, adapter: AdapterRef | None, priority: Priority) -> None:
        self.calls[adapter.name if adapter else "base"] += 1
        self.priorities.add(priority)
        await asyncio.sleep(0)


def version(n: int) -> AdapterRef:
    return AdapterRef("user/ann", n, "d", n, Path("nowhere"))


NEW, LIVE = version(2), version(1)
HELD = {"ann": [f"e{n:03d}" for n in range(COUNT - 8, COUNT)]}


class Room:
    def __init__(self, store: Store, **settings: Any) -> None:
        self.engine = Models()
        self.settings = Settings.model_validate({"max_model_len": 4096} | settings)
        self.store = store
        ctx = ServerContext(self.settings, store, self.engine, Metrics())
        memory = MemoryService(ctx)
        contexts = context_builder(ctx, memory=memory)
        measurements = ModelMeasurements(ctx, contexts=contexts)
        self.gate = Gate(ctx, questions=contexts.questions, memory=memory, measurements=measurements)

    def behaves(self, adapter: AdapterRef | None, **how: Any) -> None:
        self.engine.by_name[adapter.name if adapter else "base"] = Model(**how)

    async def evaluate(self, held_out: dict[str, list[str]] = HELD, live: AdapterRef | None = None) -> dict[str, Check]:
        return {check.name: check for check in await self.gate.evaluate(NEW, live, held_out)}


@pytest.fixture(autouse=True)
async def ann(store: Store) -> None:
    await store.engagements.add("ann", [engagement(n) for n in range(COUNT)])


@pytest.fixture
def room(store: Store) -> Room:
    return Room(store)


def failed(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if check.passed is False}


async def test_a_version_like_the_base_passes(room: Room) -> None:
    found = await room.evaluate()
    assert list(found) == [
        "score_vs_base", "score_vs_live", "score_thinking_vs_base", "thinking_gain_closed", "collapse", "length_ratio",
        "general",
    ]  # fmt: skip
    assert {name: check.passed for name, check in found.items()} == {
        "score_vs_base": True,
        "score_vs_live": None,
        "score_thinking_vs_base": None,
        "thinking_gain_closed": None,
        "collapse": True,
        "length_ratio": True,
        "general": True,
    }
    assert found["score_vs_live"].detail == "no version is live"
    assert room.engine.priorities == {Priority.PARITY_CHECK}


async def test_a_version_that_knows_its_user_less_than_the_base_fails(room: Room) -> None:
    room.behaves(NEW, score=-3.0)
    found = await room.evaluate()
    assert failed(found) == {"score_vs_base"}
    # Over two choices: log(e^-3 / (e^-3 + e^-1)) less log(1/2).
    assert found["score_vs_base"].value == pytest.approx(-2.127 + 0.693, abs=0.001)


async def test_a_version_that_is_worse_than_the_live_one_fails(room: Room) -> None:
    room.behaves(LIVE, score=0.0)
    found = await room.evaluate(live=LIVE)
    assert failed(found) == {"score_vs_live"}
    assert found["score_vs_base"].passed is True


async def test_an_open_answer_is_scored_by_the_token(room: Room) -> None:
    await room.store.engagements.add("ben", [engagement(n, choices=[]) for n in range(5)])
    room.behaves(NEW, score=-3.0)
    found = await room.evaluate({"ben": ["e001", "e002", "e003", "e004"]})
    assert found["score_vs_base"].value == pytest.approx(-2.0)


@pytest.mark.parametrize(
    "loss",
    [
        {"thought": "Answer: yes"},
        {"thought": "walks by the lake " * 5},
        {"finish": "loop"},
        {"finish": "length"},
    ],
)
@pytest.mark.parametrize("held", [8, 4, 1])
async def test_a_version_that_can_no_longer_think_fails(room: Room, loss: dict[str, Any], held: int) -> None:
    room.behaves(NEW, **loss)
    found = await room.evaluate({"ann": HELD["ann"][-held:]})
    assert "collapse" in failed(found)
    assert found["collapse"].value == 1.0
    assert room.engine.thinking_on == {"somebody": 32}, "of few engagements several each"


@pytest.mark.parametrize("key", ["user/ann", "cohort/everyone"])
async def test_where_nothing_is_held_out_it_thinks_about_what_it_learned_from(room: Room, key: str) -> None:
    new = replace(NEW, key=key)
    room.behaves(new, finish="loop")
    found = {check.name: check for check in await room.gate.evaluate(new, None, {})}
    assert failed(found) == {"collapse"}
    assert room.engine.thinking_on == {"somebody": 32}
    assert found["score_vs_base"].detail == "0 engagements held out, 4 wanted"


async def test_where_nothing_can_be_asked_it_thinks_about_general_questions(room: Room) -> None:
    new = replace(NEW, key="user/nobody")
    room.behaves(new, finish="loop")
    found = {check.name: check for check in await room.gate.evaluate(new, None, {})}
    assert failed(found) == {"collapse"}
    assert room.engine.thinking_on == {"nobody": 32}


async def test_a_version_that_thinks_much_less_or_more_than_the_base_fails(room: Room) -> None:
    room.behaves(NEW, thought="walks by the lake often")
    assert failed(await room.evaluate()) == {"length_ratio"}
    room.behaves(NEW, thought=f"{THOUGHT}, {THOUGHT}")
    assert failed(await room.evaluate()) == {"length_ratio"}


async def test_a_version_that_forgets_what_everybody_knows_fails(room: Room) -> None:
    room.behaves(NEW, general=-1.0)
    found = await room.evaluate()
    assert failed(found) == {"general"}
    assert "the base has" in found["general"].detail


async def test_general_questions_are_asked_without_their_choices(room: Room) -> None:
    prompts: list[str] = []
    ask = room.engine.next_logprobs

    async def heard(prompt_ids: Sequence[int], *args: Any, **kwargs: Any) -> list[float]:
        prompts.append(room.engine.tokenizer.decode(prompt_ids))
        return await ask(prompt_ids, *args, **kwargs)

    room.engine.next_logprobs = heard  # type: ignore[method-assign]
    await room.evaluate({})
    assert prompts
    assert not any("Choices:" in prompt for prompt in prompts)


async def test_the_score_after_thinking_decides_only_where_it_is_asked_to(store: Store) -> None:
    room = Room(store)
    room.behaves(NEW, after=-9.0)
    found = await room.evaluate()
    assert failed(found) == set()
    reported = found["score_thinking_vs_base"]
    assert reported.value is not None
    assert reported.bound is not None
    assert reported.value < reported.bound
    strict = Room(store, gate_thinking_decides=True)
    strict.behaves(NEW, after=-9.0)
    assert failed(await strict.evaluate()) == {"score_thinking_vs_base"}


async def test_what_thinking_gains_is_measured_for_each_kind_of_question(room: Room) -> None:
    await room.store.engagements.add("ben", [engagement(n, choices=[]) for n in range(5)])
    room.behaves(NEW, score=-1.5, after=-0.5)
    found = await room.evaluate({"ben": ["e002", "e003", "e004"], **HELD})
    closed, open_ = found["thinking_gain_closed"], found["thinking_gain_open"]
    assert (closed.items, open_.items) == (8, 3)
    # Over two choices, the other one at -1: log(e^-.5 / (e^-.5 + e^-1)) less log(e^-1.5 / (e^-1.5 + e^-1)).
    assert closed.value == pytest.approx(-0.474 + 0.974, abs=0.001)
    assert open_.value == pytest.approx(1.0), "a token"
    assert closed.passed is open_.passed is None


async def test_without_held_out_questions_no_gain_is_measured(room: Room) -> None:
    assert not any("gain" in name for name in await room.evaluate({}))


async def test_the_base_is_asked_once(room: Room) -> None:
    await room.evaluate()
    before = room.engine.calls["base"]
    await room.evaluate()
    assert room.engine.calls["base"] == before > 0


async def test_what_is_asked_at_once_is_bounded(store: Store) -> None:
    room = Room(store, gate_at_once=3)
    await asyncio.gather(room.evaluate(), room.evaluate(live=LIVE))
    assert room.engine.most == 3, "also over examinations at the same time"


async def test_at_most_so_many_engagements(store: Store) -> None:
    room = Room(store, gate_items=5)
    found = await room.evaluate()
    assert found["score_vs_base"].detail.endswith("on 5 engagements")


async def test_engagements_that_are_gone_or_cannot_be_asked_are_left_out(room: Room) -> None:
    strange = [
        engagement(30).model_copy(update={"prompt": "word " * 5000}),
        engagement(31, choices=["yes", "yes "]),
        engagement(32, choices=[]).model_copy(update={"response": "<think>"}),
        engagement(33),
    ]
    await room.store.engagements.add("ann", strange)
    found = await room.evaluate({"ann": [*HELD["ann"], "e030", "e031", "e032", "e033", "e034"]})
    assert found["score_vs_base"].detail.endswith("on 9 engagements")


async def test_a_gate_that_is_off_asks_nothing(store: Store) -> None:
    room = Room(store, gate=False)
    assert await room.evaluate() == {}
    assert not room.engine.calls


async def test_cancelled_evaluation_leaves_nothing_running(room: Room) -> None:
    examination = asyncio.create_task(room.evaluate())
    await room.engine.thinks_now.wait()
    examination.cancel()
    with pytest.raises(asyncio.CancelledError):
        await examination
    asked = sum(room.engine.calls.values())
    await asyncio.sleep(0.01)
    assert sum(room.engine.calls.values()) == asked


def test_engagements_are_taken_from_each_user_in_turn_the_newest_first() -> None:
    held = {"cat": ["c1"], "ann": ["a1", "a2", "a3"], "ben": ["b1", "b2"], "dan": []}
    assert interleave_newest_first(held) == [
        ("ann", "a3"), ("ben", "b2"), ("cat", "c1"), ("ann", "a2"), ("ben", "b1"), ("ann", "a1"),
    ]  # fmt: skip


async def test_nothing_is_written_about_what_is_held_out(services: Services) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(30)])
    batch, _ = await services.batches.submit(BatchRequest(users=["ann"]))
    assert batch.items == 27
