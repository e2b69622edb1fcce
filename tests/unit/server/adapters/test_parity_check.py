from __future__ import annotations

import asyncio
from pathlib import Path

from mindprint.types import ParityItem
from mindprint_server.adapters import parity_check
from mindprint_server.engine import AdapterRef
from mindprint_server.engine.fake import FakeEngine


def verdict(engine: list[float], base: list[float], trainer: list[float]) -> str | None:
    result = parity_check.compare_logprobs(engine, base, trainer, tolerance=0.1, min_shift=0.02)
    assert result.passed == (result.reason is None)
    return result.reason


def test_parity_passes_only_for_the_adapter_itself() -> None:
    assert verdict([-1.0, -2.0], [-3.0, -4.0], [-1.05, -1.95]) is None
    assert "without the adapter" in str(verdict([-3.0, -4.0], [-3.0, -4.0], [-1.0, -2.0]))
    assert "from the trainer's" in str(verdict([-2.0, -3.0], [-3.0, -4.0], [-1.0, -2.0]))
    assert "no nearer" in str(verdict([-1.1, -2.1], [-1.05, -2.0], [-1.05, -2.0]))
    assert "not finite" in str(verdict([float("nan"), -2.0], [-3.0, -4.0], [-1.0, -2.0]))


async def test_parity_fails_on_an_engine_that_ignores_adapters(base_folder: Path) -> None:
    class Deaf(FakeEngine):
        async def next_logprobs(self, prompt_ids, token_ids, *, adapter, priority):  # type: ignore[no-untyped-def]
            return await super().next_logprobs(prompt_ids, token_ids, adapter=None, priority=priority)

    engine = Deaf(model_path=base_folder)
    engine.tokenizer.encode("two words")
    item = ParityItem(prompt_ids=[1, 2], target_ids=[1, 2], logprobs=[-0.5, -0.5], base_logprobs=[-1, -1])
    ref = AdapterRef("user/ann", 1, "sha256:0", 1, base_folder)
    waits = []

    async def wait() -> None:
        waits.append(1)

    result = await parity_check.check_parity(engine, ref, [item], tolerance=0.1, min_shift=0.02, wait_until_idle=wait)
    assert not result.passed
    assert result.against_base == 0
    assert result.tokens == 2
    assert len(waits) == 4  # two tokens, with the adapter and without


async def test_parity_item_is_scored_token_by_token(base_folder: Path) -> None:
    class Counting(FakeEngine):
        inside = 0
        most = 0

        async def next_logprobs(self, prompt_ids, token_ids, *, adapter, priority):  # type: ignore[no-untyped-def]
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.001)
            found = await super().next_logprobs(prompt_ids, token_ids, adapter=adapter, priority=priority)
            self.inside -= 1
            return found

    async def wait() -> None:
        """Nobody is waited for."""

    engine = Counting(model_path=base_folder)
    engine.tokenizer.encode("one two three")
    short = ParityItem(prompt_ids=[1, 2], target_ids=[1, 2], logprobs=[-0.5, -0.5], base_logprobs=[-1, -1])
    long = ParityItem(prompt_ids=[2, 1], target_ids=[2, 1, 3], logprobs=[-0.5] * 3, base_logprobs=[-1] * 3)
    ref = AdapterRef("user/ann", 1, "sha256:0", 1, base_folder)
    result = await parity_check.check_parity(
        engine, ref, [short, long], tolerance=99, min_shift=0, wait_until_idle=wait
    )
    assert result.tokens == 5
    assert engine.most == 1
