from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from mindprint.types import Engagement
from mindprint_server.adapters.prefetch import PrefixPrefetcher
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, EngineDied
from mindprint_server.observability.metrics import Metrics
from mindprint_server.prompts.types import RecalledMemory
from mindprint_server.settings import Settings
from mindprint_server.sharing.admission import AdmissionController


class Engine:
    """Remembers what it was asked to read."""

    class tokenizer:
        special = ("<|im_end|>",)

        @staticmethod
        def render(messages: list[dict[str, str]]) -> str:
            return "|".join(message["content"] for message in messages)

        @staticmethod
        def encode(text: str) -> list[int]:
            return list(text.encode())

    def __init__(self, error: Exception | None = None) -> None:
        self.read: list[tuple[str, str]] = []
        self.error = error

    async def generate(self, ids: list[int], sampling: Any, *, adapter: AdapterRef, priority: Any) -> None:
        assert sampling.max_tokens == 1
        if self.error:
            raise self.error
        self.read.append((bytes(ids).decode(), adapter.name))


class Memory:
    def __init__(self, *, has_memory: bool = True) -> None:
        self.has_memory = has_memory

    async def recall_shared(self, user_id: str) -> RecalledMemory:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        episode = Engagement(id="e1", prompt="A walk?", response="gladly", occurred_at=now)
        return RecalledMemory(f"{user_id} likes tea", (episode,)) if self.has_memory else RecalledMemory()


def prefetcher(settings: Settings, engine: Any, memory: Any, admission: AdmissionController) -> PrefixPrefetcher:
    ctx = ServerContext(settings, cast(Any, None), engine, Metrics())
    return PrefixPrefetcher(ctx, memory=memory, admission=admission)


def adapter(key: str) -> AdapterRef:
    return AdapterRef(key, 2, "sha256:0", 7, Path("nowhere"))


async def test_what_all_questions_share_is_read_through_the_new_version() -> None:
    engine: Any = Engine()
    memory: Any = Memory()
    await prefetcher(Settings(prefetch_step_tokens=999), engine, memory, AdmissionController(9, 1)).prefetch(
        adapter("user/ann")
    )
    [(text, name)] = engine.read
    assert "ann likes tea" in text
    assert "A walk?" in text
    assert name == "user/ann@2"


async def test_a_long_memory_is_read_piece_by_piece() -> None:
    engine: Any = Engine()
    memory: Any = Memory()
    await prefetcher(Settings(prefetch_step_tokens=40), engine, memory, AdmissionController(9, 1)).prefetch(
        adapter("user/ann")
    )
    lengths = [len(text) for text, _ in engine.read]
    assert lengths[:-1] == list(range(40, lengths[-1], 40))
    assert len(lengths) > 2
    assert engine.read[-1][0].startswith(engine.read[0][0])
    assert "ann likes tea" in engine.read[-1][0]


async def test_each_piece_waits_for_those_who_are_being_answered() -> None:
    engine: Any = Engine()
    memory: Any = Memory()
    admission = AdmissionController(9, 1, max_idle_wait_s=60)
    async with admission.enter():
        reading = asyncio.create_task(prefetcher(Settings(), engine, memory, admission).prefetch(adapter("user/ann")))
        await asyncio.sleep(0.01)
        assert engine.read == []
    await asyncio.wait_for(reading, 1)
    assert engine.read


@pytest.mark.parametrize(
    ("settings", "key", "has_memory"),
    [
        ({}, "cohort/everyone", True),
        ({}, "user/ann", False),
        ({"prefetch_prefixes": False}, "user/ann", True),
    ],
)
async def test_nothing_is_read_that_no_question_is_known_to_need(
    settings: dict[str, Any], key: str, has_memory: bool
) -> None:
    engine: Any = Engine()
    memory: Any = Memory(has_memory=has_memory)
    await prefetcher(Settings(**settings), engine, memory, AdmissionController(9, 1)).prefetch(adapter(key))
    assert engine.read == []


async def test_a_failure_only_costs_the_time() -> None:
    engine: Any = Engine(ValueError("too long"))
    memory: Any = Memory()
    await prefetcher(Settings(), engine, memory, AdmissionController(9, 1)).prefetch(adapter("user/ann"))


async def test_dead_engine_is_raised() -> None:
    engine: Any = Engine(EngineDied("gone"))
    memory: Any = Memory()
    with pytest.raises(EngineDied):
        await prefetcher(Settings(), engine, memory, AdmissionController(9, 1)).prefetch(adapter("user/ann"))
