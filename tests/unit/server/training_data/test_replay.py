"""Generic thinking of the base model: what is kept, and that nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from builders import prompt_builder
from mindprint.general_questions import QUESTIONS as OF_THE_GATE
from mindprint_server.context import ServerContext
from mindprint_server.engine import Priority, Sampling
from mindprint_server.engine.types import FinishReason
from mindprint_server.observability.metrics import Metrics
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.settings import Settings
from mindprint_server.store import Store
from mindprint_server.training_data.replay import MAX_TRIES, ReplayBuffer
from mindprint_server.training_data.replay_prompts import QUESTIONS
from scripted import Scripted

THOUGHT = " leaves fall because the days are short"
ANSWER = " It is cold. They"


class Writer(Scripted):
    """Thinks and answers as it is told, counts what runs at once, and can be held up or broken."""

    def __init__(self) -> None:
        super().__init__()
        self.thought: tuple[str, FinishReason] = (THOUGHT, "stop")
        self.answer: tuple[str, FinishReason] = (ANSWER, "length")
        self.asked_for: list[tuple[str, Sampling]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.broken = False
        self.running = self.most = 0

    async def generate(self, prompt_ids: Any, sampling: Sampling, *, adapter: Any, priority: Priority) -> Any:
        assert (adapter, priority) == (None, Priority.BATCH)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go_on.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        if self.broken:
            raise RuntimeError("the engine has a bad day")
        prompt = self.tokenizer.decode(prompt_ids)
        self.asked_for.append((prompt, sampling))
        return self.written(*(self.answer if "</think>" in prompt else self.thought))


@pytest.fixture
def engine() -> Writer:
    return Writer()


@pytest.fixture
async def replays(store: Store, engine: Writer) -> AsyncIterator[ReplayBuffer]:
    made = make(store, engine)
    yield made
    await made.stop()


def make(store: Store, engine: Writer, **settings: Any) -> ReplayBuffer:
    chosen = Settings.model_validate({"max_model_len": 4096, "replay_at_once": 3} | settings)
    prompts = prompt_builder(chosen, engine)
    return ReplayBuffer(ServerContext(chosen, store, engine, Metrics()), prompts=prompts)


async def test_each_question_is_thought_about_and_answered_once(
    replays: ReplayBuffer, store: Store, engine: Writer
) -> None:
    there = await replays.get(10)
    assert [replay.position for replay in there] == list(range(len(QUESTIONS)))
    first = there[0]
    assert "Nothing is known about this user yet." in first.prompt
    assert f"Question: {QUESTIONS[0]}\nThink about the question, then give the answer." in first.prompt
    assert first.thinking == "Let me think step by step." + THOUGHT
    assert first.answer == "It is cold.", "what the bound cut off in the middle is left out"
    assert there == await store.replays.list_all(engine.info().base_digest, PROMPT_VERSION)
    assert engine.most == 3
    thinking, answering = engine.asked_for[0][1], engine.asked_for[-1][1]
    assert (thinking.temperature, thinking.detect_loops) == (0.7, True)
    assert answering.temperature == 0


async def test_they_are_written_once_for_a_base_model(replays: ReplayBuffer, store: Store) -> None:
    there = await replays.get(10)
    second = Writer()
    again = make(store, second)
    assert await again.get(10) == there
    assert not second.asked_for


@pytest.mark.parametrize(
    ("thought", "answer"),
    [
        ((THOUGHT, "loop"), (ANSWER, "stop")),
        ((" so it goes on" * 6, "stop"), (ANSWER, "stop")),
        ((" yes", "stop"), (ANSWER, "stop")),
        ((THOUGHT, "stop"), ("", "stop")),
        ((THOUGHT, "stop"), (" It is", "length")),
        ((THOUGHT, "stop"), (ANSWER, "loop")),
    ],
)
async def test_what_loops_or_is_empty_is_left_out_after_a_few_tries(
    thought: Any, answer: Any, replays: ReplayBuffer, engine: Writer
) -> None:
    engine.thought, engine.answer = thought, answer
    assert list(await replays.get(10)) == []
    thinkings = [sampling.seed for prompt, sampling in engine.asked_for if "</think>" not in prompt]
    assert len(thinkings) == MAX_TRIES * len(QUESTIONS) == len(set(thinkings)), "each try has a seed of its own"
    assert list(await replays.get(10)) == []
    assert len(thinkings) == MAX_TRIES * len(QUESTIONS), "and not again before the next start"


async def test_nobody_waits_for_longer_than_wanted(replays: ReplayBuffer, engine: Writer) -> None:
    engine.go_on.clear()
    assert list(await replays.get(0.01)) == []
    engine.go_on.set()
    assert len(await replays.get(10)) == len(QUESTIONS)


async def test_what_a_failure_left_is_written_later(replays: ReplayBuffer, store: Store, engine: Writer) -> None:
    engine.broken = True
    assert list(await replays.get(0.05)) == []
    engine.broken = False
    assert len(await replays.get(10)) == len(QUESTIONS)


async def test_stopping_ends_the_writing(replays: ReplayBuffer, engine: Writer) -> None:
    engine.go_on.clear()
    replays.ensure_started()
    await engine_runs(engine)
    await replays.stop()
    assert engine.running == 0


async def engine_runs(engine: Writer) -> None:
    async with asyncio.timeout(5):
        while not engine.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_without_a_share_nothing_is_written(store: Store, engine: Writer) -> None:
    none = make(store, engine, replay_share=0)
    assert list(await none.get(1)) == []
    await none.stop()
    assert not engine.asked_for


def test_the_questions_are_not_those_of_the_gate() -> None:
    assert 30 <= len(QUESTIONS) <= 60
    assert len(set(QUESTIONS)) == len(QUESTIONS)
    assert not set(QUESTIONS) & {question.query for question in OF_THE_GATE}
