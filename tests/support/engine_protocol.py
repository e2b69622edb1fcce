"""Tests that every `Engine` passes, the fake one included. A subclass named `Test...` runs them.

They need the fixtures `engine` (started), `engine_settings` (its settings) and `adapters` (at least two PEFT folders).
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from mindprint_server.engine import AdapterRef, Engine, EngineStats, Priority, PromptTooLong, Sampling
from mindprint_server.settings import Settings

NOW = Priority.INTERACTIVE
TEXT = "An engine reads this line. "


def ref(folder: Path, number: int) -> AdapterRef:
    return AdapterRef("user/eve", number, "sha256:0", 2000 + number, folder)


async def score(engine: Engine, adapter: AdapterRef | None = None, tokens: str = "a b c") -> list[float]:
    encode = engine.tokenizer.encode
    return await engine.next_logprobs(encode(TEXT), encode(tokens), adapter=adapter, priority=NOW)


class EngineProtocol:
    """The contracts of `Engine` that need no reference model."""

    async def test_started_engine_is_ready_and_describes_itself(
        self, engine: Engine, engine_settings: Settings
    ) -> None:
        assert engine.ready
        assert not engine.dead.is_set()
        info = engine.info()
        assert info.name
        assert info.model_path == engine_settings.model
        assert info.max_model_len == engine_settings.max_model_len
        assert info.base_digest.startswith("sha256:")
        assert info.cache_tokens is None or info.cache_tokens > 0

    async def test_start_reports_its_phases(self, engine: Engine, start_phases: list[str]) -> None:
        assert engine.ready
        assert start_phases

    async def test_special_tokens_in_a_text_are_one_token_each(self, engine: Engine) -> None:
        tokenizer = engine.tokenizer
        ids = {text: tokenizer.encode(text) for text in tokenizer.special}
        assert all(len(found) == 1 for found in ids.values())
        assert [tokenizer.chat_format.end_id] in ids.values()
        for text, [token] in ids.items():
            assert tokenizer.encode(f"before {text}after").count(token) == 1

    async def test_encode_adds_no_tokens(self, engine: Engine) -> None:
        tokenizer = engine.tokenizer
        assert tokenizer.encode("") == []
        assert tokenizer.encode("one") + tokenizer.encode(" two") == tokenizer.encode("one two")

    async def test_render_keeps_the_order_of_messages(self, engine: Engine) -> None:
        rendered = engine.tokenizer.render(
            [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
        )
        assert 0 <= rendered.index("be brief") < rendered.index("hello")

    async def test_generation_keeps_its_bounds(self, engine: Engine) -> None:
        prompt = engine.tokenizer.encode(TEXT)
        written = await engine.generate(prompt, Sampling(max_tokens=3), adapter=None, priority=NOW)
        assert 1 <= len(written.token_ids) <= 3
        assert written.finish in ("stop", "length")
        assert written.prompt_tokens == len(prompt)
        assert 0 <= written.cached_tokens <= len(prompt)
        assert written.logprobs is None

    async def test_generation_with_logprobs_has_one_for_each_token(self, engine: Engine) -> None:
        sampling = Sampling(max_tokens=4, temperature=1.0, seed=5, logprobs=True)
        written = await engine.generate(engine.tokenizer.encode(TEXT), sampling, adapter=None, priority=NOW)
        assert written.logprobs is not None
        assert len(written.logprobs) == len(written.token_ids)
        assert max(written.logprobs) <= 0

    async def test_greedy_generation_repeats(self, engine: Engine) -> None:
        prompt = engine.tokenizer.encode(TEXT)
        first, second = [
            await engine.generate(prompt, Sampling(max_tokens=4), adapter=None, priority=NOW) for _ in range(2)
        ]
        assert first.token_ids == second.token_ids

    async def test_seeds_repeat_and_differ(self, engine: Engine) -> None:
        prompt = engine.tokenizer.encode(TEXT)

        async def text(seed: int) -> str:
            sampling = Sampling(max_tokens=12, temperature=1.0, seed=seed)
            return (await engine.generate(prompt, sampling, adapter=None, priority=NOW)).text

        assert await text(1) == await text(1)
        assert len({await text(seed) for seed in range(4)}) > 1

    async def test_stream_grows_to_what_a_generation_returns(self, engine: Engine) -> None:
        prompt, sampling = engine.tokenizer.encode(TEXT), Sampling(max_tokens=8)
        whole = await engine.generate(prompt, sampling, adapter=None, priority=NOW)
        outputs = [output async for output in engine.stream(prompt, sampling, adapter=None, priority=NOW)]
        assert len(outputs) > 1
        assert outputs[-1].token_ids == whole.token_ids
        assert (outputs[-1].text, outputs[-1].finish) == (whole.text, whole.finish)
        for shorter, longer in pairwise(outputs):
            assert longer.text.startswith(shorter.text)
            assert longer.token_ids[: len(shorter.token_ids)] == shorter.token_ids

    async def test_stream_that_is_closed_ends_and_the_engine_answers_on(self, engine: Engine) -> None:
        prompt, sampling = engine.tokenizer.encode(TEXT), Sampling(max_tokens=200, temperature=1.0, seed=1)
        outputs = engine.stream(prompt, sampling, adapter=None, priority=NOW)
        await anext(outputs)
        await outputs.aclose()
        assert (await engine.generate(prompt, Sampling(max_tokens=1), adapter=None, priority=NOW)).token_ids

    async def test_scores_follow_the_order_of_the_tokens(self, engine: Engine) -> None:
        prompt, tokens = (engine.tokenizer.encode(text) for text in (TEXT, "x y z"))
        values = await engine.next_logprobs(prompt, tokens, adapter=None, priority=NOW)
        assert len(values) == len(tokens)
        assert max(values) <= 0
        assert len(set(values)) > 1
        turned = await engine.next_logprobs(prompt, tokens[::-1], adapter=None, priority=NOW)
        assert turned == pytest.approx(values[::-1], abs=1e-3)

    async def test_too_long_is_refused_with_the_bound(self, engine: Engine) -> None:
        bound = engine.info().max_model_len
        [token] = engine.tokenizer.encode("a")
        with pytest.raises(PromptTooLong, match=str(bound)):
            await engine.generate([token] * (bound - 48), Sampling(max_tokens=49), adapter=None, priority=NOW)
        with pytest.raises(PromptTooLong, match=str(bound)):
            await engine.next_logprobs([token] * bound, [token], adapter=None, priority=NOW)

    async def test_cancelled_generation_ends_and_the_engine_answers_on(self, engine: Engine) -> None:
        prompt, sampling = engine.tokenizer.encode(TEXT), Sampling(max_tokens=200, temperature=1.0, seed=1)
        task = asyncio.create_task(engine.generate(prompt, sampling, adapter=None, priority=NOW))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await score(engine)
        assert engine.ready
        assert not engine.dead.is_set()

    async def test_adapter_scores_differ_until_it_is_unloaded(self, engine: Engine, adapters: list[Path]) -> None:
        one, base = ref(adapters[0], 1), await score(engine)
        await engine.load(one)
        assert await score(engine, one) != pytest.approx(base, abs=5e-2)
        await engine.unload(one)
        assert await score(engine) == pytest.approx(base, abs=1e-3)

    async def test_adapters_side_by_side_keep_their_own_scores(self, engine: Engine, adapters: list[Path]) -> None:
        refs = [ref(folder, 10 + i) for i, folder in enumerate(adapters[:2])]
        for one in refs:
            await engine.load(one)
        alone = [await score(engine, adapter) for adapter in (*refs, None)]
        together = await asyncio.gather(*(score(engine, adapter) for adapter in (*refs, None)))
        for ours, wanted in zip(together, alone, strict=True):
            assert ours == pytest.approx(wanted, abs=1e-2)
        assert alone[0] != pytest.approx(alone[1], abs=5e-2)
        for one in refs:
            await engine.unload(one)

    async def test_unloading_an_adapter_that_is_not_loaded_is_ignored(
        self, engine: Engine, adapters: list[Path]
    ) -> None:
        await engine.unload(ref(adapters[0], 20))
        assert engine.ready

    async def test_stats_keep_their_ranges(self, engine: Engine) -> None:
        stats = engine.stats()
        assert isinstance(stats, EngineStats)
        assert min(stats.running, stats.waiting, stats.preemptions) >= 0
        assert 0 <= stats.kv_use <= 1
