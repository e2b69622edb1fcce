"""LoRA adapters on a real engine, against transformers and PEFT as the reference."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mindprint.types import ParityItem
from mindprint_server.adapters import parity_check
from mindprint_server.engine import AdapterRef, Engine, Priority
from tiny import logprobs, make_adapter

NOW = Priority.INTERACTIVE
TEXT = "A tiny model reads this line, byte by byte. "


def ref(folder: Path, number: int) -> AdapterRef:
    return AdapterRef("user/ann", number, "sha256:0", 1000 + number, folder)


async def test_an_adapter_comes_answers_and_goes(engine: Engine, tiny_model: Path, adapters: list[Path]) -> None:
    one = ref(adapters[0], 1)
    ids = engine.tokenizer.encode(TEXT)
    tokens = engine.tokenizer.encode("abcxyz")
    base = await engine.next_logprobs(ids, tokens, adapter=None, priority=NOW)
    await engine.load(one)
    ours = await engine.next_logprobs(ids, tokens, adapter=one, priority=NOW)
    row = logprobs(tiny_model, ids, adapter=adapters[0])[-1]
    assert ours == pytest.approx([row[token] for token in tokens], abs=5e-3)
    assert ours != pytest.approx(base, abs=5e-2)
    await engine.unload(one)
    assert await engine.next_logprobs(ids, tokens, adapter=None, priority=NOW) == pytest.approx(base, abs=1e-4)


async def test_files_that_the_engine_refuses(engine: Engine, tiny_model: Path, tmp_path: Path) -> None:
    too_big = make_adapter(tiny_model, tmp_path / "big", seed=1, rank=32)
    with pytest.raises(ValueError, match="user/ann@20"):
        await engine.load(ref(too_big, 20))
    with pytest.raises(ValueError, match="user/ann@21"):
        await engine.load(ref(tmp_path / "nowhere", 21))
    assert engine.ready
    assert not engine.dead.is_set()


def parity_items(base: Path, adapter: Path, prompt: list[int], target: list[int]) -> list[ParityItem]:
    def of(folder: Path | None) -> list[float]:
        rows = logprobs(base, prompt + target, adapter=folder)
        return [rows[len(prompt) + i - 1][token] for i, token in enumerate(target)]

    return [ParityItem(prompt_ids=prompt, target_ids=target, logprobs=of(adapter), base_logprobs=of(None))]


async def test_the_base_stays_the_base_beside_adapters(engine: Engine, tiny_model: Path, adapters: list[Path]) -> None:
    """However many slots are taken, and whichever adapter is computed in the same step (docs/decisions/007)."""
    ids, token = engine.tokenizer.encode(TEXT), engine.tokenizer.encode("y")
    wanted = logprobs(tiny_model, ids)[-1][token[0]]
    for number, folder in enumerate(adapters * 2, 20):
        one = ref(folder, number)
        await engine.load(one)
        beside, base = await asyncio.gather(
            engine.next_logprobs(ids, token, adapter=one, priority=NOW),
            engine.next_logprobs(ids, token, adapter=None, priority=NOW),
        )
        assert base == pytest.approx([wanted], abs=1e-3)
        assert beside == pytest.approx([logprobs(tiny_model, ids, adapter=folder)[-1][token[0]]], abs=1e-2)
    for number in range(20, 20 + 2 * len(adapters)):
        await engine.unload(ref(adapters[0], number))


async def at_once() -> None:
    """Nobody is waited for."""


async def test_parity_check_distinguishes_adapters(engine: Engine, tiny_model: Path, adapters: list[Path]) -> None:
    prompt, target = engine.tokenizer.encode(TEXT), engine.tokenizer.encode("yes")
    items = parity_items(tiny_model, adapters[0], prompt, target)
    verdicts = []
    bounds = parity_check.ParityBounds(tolerance=0.02, tolerance_share=0.1, min_shift=0.02)
    for number, folder in enumerate(adapters[:2], start=10):
        async with loaded(engine, ref(folder, number)) as adapter:
            verdicts.append(
                await parity_check.check_parity(engine, adapter, items, bounds=bounds, wait_until_idle=at_once)
            )
    assert verdicts[0].passed, verdicts[0]
    assert verdicts[0].against_trainer < 0.01 < verdicts[0].against_base
    assert not verdicts[1].passed


async def test_more_adapters_than_slots_all_answer(engine: Engine, tiny_model: Path, adapters: list[Path]) -> None:
    """Three adapters on two slots at once: each sequence is its own adapter's."""
    ids = engine.tokenizer.encode(TEXT)
    tokens = engine.tokenizer.encode("abc")
    refs = [ref(folder, 30 + i) for i, folder in enumerate(adapters)]
    answers = await asyncio.gather(
        *(engine.next_logprobs(ids, tokens, adapter=one, priority=NOW) for one in refs for _ in range(3))
    )
    for i, values in enumerate(answers):
        row = logprobs(tiny_model, ids, adapter=adapters[i // 3])[-1]
        assert values == pytest.approx([row[token] for token in tokens], abs=5e-3)
    for one in refs:
        await engine.unload(one)


class loaded:
    """An adapter in the engine for the length of a block."""

    def __init__(self, engine: Engine, adapter: AdapterRef) -> None:
        self._engine, self._adapter = engine, adapter

    async def __aenter__(self) -> AdapterRef:
        await self._engine.load(self._adapter)
        return self._adapter

    async def __aexit__(self, *_: object) -> None:
        await self._engine.unload(self._adapter)
