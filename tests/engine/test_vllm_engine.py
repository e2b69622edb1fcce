"""The engine boundary on real vLLM, against transformers and PEFT as the reference."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mindprint.types import ParityItem
from mindprint_server.adapters import parity_check
from mindprint_server.engine import AdapterRef, Priority, PromptTooLong, Sampling
from mindprint_server.engine.vllm import VllmEngine
from mindprint_server.settings import Settings
from mindprint_server.verdicts.likelihood import sequence_logprobs
from tiny import logprobs, make_adapter

NOW = Priority.INTERACTIVE
TEXT = "A tiny model reads this line, byte by byte. "


def ref(folder: Path, number: int) -> AdapterRef:
    return AdapterRef("user/ann", number, "sha256:0", 1000 + number, folder)


async def test_the_tokenizer_renders_and_encodes_without_additions(engine: VllmEngine) -> None:
    tokenizer = engine.tokenizer
    assert tokenizer.render([{"role": "user", "content": "hi"}]) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.encode("a") + tokenizer.encode("b") == tokenizer.encode("ab")
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_id]


async def test_greedy_generation_is_the_model_s(engine: VllmEngine, tiny_model: Path) -> None:
    ids = engine.tokenizer.encode(TEXT)
    written = await engine.generate(ids, Sampling(max_tokens=6), adapter=None, priority=NOW)
    assert written.finish == "length"
    for token in written.token_ids:
        row = logprobs(tiny_model, ids)[-1]
        assert row[token] == pytest.approx(max(row), abs=1e-3)
        ids = [*ids, token]


async def test_next_logprobs_are_the_model_s(engine: VllmEngine, tiny_model: Path) -> None:
    ids = engine.tokenizer.encode(TEXT)
    tokens = engine.tokenizer.encode("abcxyz")
    values = await engine.next_logprobs(ids, tokens, adapter=None, priority=NOW)
    row = logprobs(tiny_model, ids)[-1]
    assert values == pytest.approx([row[token] for token in tokens], abs=1e-3)


async def test_an_open_answer_is_scored_token_by_token(engine: VllmEngine, tiny_model: Path) -> None:
    prefix, answer = engine.tokenizer.encode(TEXT), engine.tokenizer.encode("and so on")
    values = await sequence_logprobs(engine, prefix, answer, adapter=None, priority=NOW)
    rows = logprobs(tiny_model, prefix + answer)[len(prefix) - 1 :]
    assert values == pytest.approx([row[token] for row, token in zip(rows, answer, strict=False)], abs=1e-3)


async def test_sampled_tokens_come_with_their_own_logprobs(engine: VllmEngine, tiny_model: Path) -> None:
    prefix = engine.tokenizer.encode(TEXT)
    sampling = Sampling(max_tokens=6, temperature=1.5, min_p=0.01, seed=3, logprobs=True)
    written = await engine.generate(prefix, sampling, adapter=None, priority=NOW)
    assert written.logprobs is not None
    rows = logprobs(tiny_model, [*prefix, *written.token_ids])[len(prefix) - 1 :]
    wanted = [row[token] for row, token in zip(rows, written.token_ids, strict=False)]
    assert list(written.logprobs) == pytest.approx(wanted, abs=1e-3)


async def test_engine_reports_its_load(engine: VllmEngine) -> None:
    prompts = [engine.tokenizer.encode(f"{number} " + TEXT) for number in range(24)]
    sampling = Sampling(max_tokens=40, temperature=1.0)
    tasks = [asyncio.create_task(engine.generate(p, sampling, adapter=None, priority=NOW)) for p in prompts]
    seen = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.01)
        seen.append(engine.stats())
    assert max(load.running for load in seen) == 16  # max_num_seqs
    assert max(load.waiting for load in seen) > 0
    assert 0 < max(load.kv_use for load in seen) <= 1


async def test_what_the_cache_holds_is_known(engine: VllmEngine, engine_settings: Settings) -> None:
    """Keys and values of every layer in float32."""
    config = engine.llm.model_config.hf_config
    head = config.hidden_size // config.num_attention_heads
    a_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * head
    assert engine_settings.kv_cache_gib is not None
    holds = engine_settings.kv_cache_gib * 2**30 / a_token
    assert engine.info().cache_tokens == pytest.approx(holds, rel=0.01)


async def test_a_prefix_is_computed_once(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode("Shared by many. " * 40)
    sampling = Sampling(max_tokens=1)
    first = await engine.generate(ids, sampling, adapter=None, priority=NOW)
    second = await engine.generate(ids, sampling, adapter=None, priority=NOW)
    assert first.cached_tokens == 0
    assert second.cached_tokens >= len(ids) // 2


async def test_a_loop_ends_early_and_says_so(engine: VllmEngine) -> None:
    # Greedy decoding of a random model falls into a loop sooner or later.
    sampling = Sampling(max_tokens=1500, detect_loops=True)
    written = await engine.generate(engine.tokenizer.encode(TEXT), sampling, adapter=None, priority=NOW)
    assert written.finish == "loop"
    assert len(written.token_ids) < 1500


async def test_a_stop_string_is_left_out(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode(TEXT)
    whole = await engine.generate(ids, Sampling(max_tokens=12), adapter=None, priority=NOW)
    letter = whole.text[3]
    cut = await engine.generate(ids, Sampling(max_tokens=12, stop=(letter,)), adapter=None, priority=NOW)
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(letter)]


async def test_seeds_repeat_and_differ(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode(TEXT)

    async def text(seed: int) -> str:
        sampling = Sampling(max_tokens=12, temperature=1.0, seed=seed)
        return (await engine.generate(ids, sampling, adapter=None, priority=NOW)).text

    assert await text(1) == await text(1)
    assert len({await text(seed) for seed in range(4)}) > 1


async def test_seeded_prompts_longer_than_a_step_do_not_kill_the_engine(engine: VllmEngine) -> None:
    prompts = [engine.tokenizer.encode(f"{number} " + "word " * 300) for number in range(4)]
    sampling = Sampling(max_tokens=4, temperature=1.0, seed=7)
    written = await asyncio.gather(*(engine.generate(p, sampling, adapter=None, priority=NOW) for p in prompts))
    assert all(one.token_ids for one in written)
    assert not engine.dead.is_set()


async def test_too_long_is_refused_before_the_engine(engine: VllmEngine) -> None:
    with pytest.raises(PromptTooLong, match="2048"):
        await engine.generate([65] * 2000, Sampling(max_tokens=100), adapter=None, priority=NOW)


async def test_cancelling_frees_the_engine(engine: VllmEngine) -> None:
    ids = engine.tokenizer.encode(TEXT)
    # Random weights may end a sequence by themselves at any token: of several some are still running.
    sampling = [Sampling(max_tokens=1500, temperature=1.0, seed=seed) for seed in range(12)]
    tasks = [asyncio.create_task(engine.generate(ids, one, adapter=None, priority=NOW)) for one in sampling]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert any(isinstance(end, asyncio.CancelledError) for end in ends)
    await asyncio.sleep(0.5)
    assert not engine.llm.output_processor.request_states


async def test_an_adapter_comes_answers_and_goes(engine: VllmEngine, tiny_model: Path, adapters: list[Path]) -> None:
    one = ref(adapters[0], 1)
    ids = engine.tokenizer.encode(TEXT)
    tokens = engine.tokenizer.encode("abcxyz")
    base = await engine.next_logprobs(ids, tokens, adapter=None, priority=NOW)
    await engine.load(one)
    assert one.engine_id in await engine.llm.list_loras()
    ours = await engine.next_logprobs(ids, tokens, adapter=one, priority=NOW)
    row = logprobs(tiny_model, ids, adapter=adapters[0])[-1]
    assert ours == pytest.approx([row[token] for token in tokens], abs=5e-3)
    assert ours != pytest.approx(base, abs=5e-2)
    await engine.unload(one)
    assert one.engine_id not in await engine.llm.list_loras()
    assert await engine.next_logprobs(ids, tokens, adapter=None, priority=NOW) == pytest.approx(base, abs=1e-4)


def parity_items(base: Path, adapter: Path, prompt: list[int], target: list[int]) -> list[ParityItem]:
    def of(folder: Path | None) -> list[float]:
        rows = logprobs(base, prompt + target, adapter=folder)
        return [rows[len(prompt) + i - 1][token] for i, token in enumerate(target)]

    return [ParityItem(prompt_ids=prompt, target_ids=target, logprobs=of(adapter), base_logprobs=of(None))]


async def test_the_base_stays_the_base_beside_adapters(
    engine: VllmEngine, tiny_model: Path, adapters: list[Path]
) -> None:
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


async def test_parity_check_distinguishes_adapters(engine: VllmEngine, tiny_model: Path, adapters: list[Path]) -> None:
    prompt, target = engine.tokenizer.encode(TEXT), engine.tokenizer.encode("yes")
    items = parity_items(tiny_model, adapters[0], prompt, target)
    verdicts = []
    for number, folder in enumerate(adapters[:2], start=10):
        async with loaded(engine, ref(folder, number)) as adapter:
            verdicts.append(
                await parity_check.check_parity(
                    engine, adapter, items, tolerance=0.02, min_shift=0.02, wait_until_idle=at_once
                )
            )
    assert verdicts[0].passed, verdicts[0]
    assert verdicts[0].against_trainer < 0.01 < verdicts[0].against_base
    assert not verdicts[1].passed


async def test_files_that_the_engine_refuses(engine: VllmEngine, tiny_model: Path, tmp_path: Path) -> None:
    too_big = make_adapter(tiny_model, tmp_path / "big", seed=1, rank=32)
    with pytest.raises(ValueError, match="refused adapter user/ann@20"):
        await engine.load(ref(too_big, 20))
    with pytest.raises(ValueError, match="refused"):
        await engine.load(ref(tmp_path / "nowhere", 21))
    assert engine.ready
    assert not engine.dead.is_set()


async def test_more_adapters_than_slots_all_answer(engine: VllmEngine, tiny_model: Path, adapters: list[Path]) -> None:
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

    def __init__(self, engine: VllmEngine, adapter: AdapterRef) -> None:
        self._engine, self._adapter = engine, adapter

    async def __aenter__(self) -> AdapterRef:
        await self._engine.load(self._adapter)
        return self._adapter

    async def __aexit__(self, *_: object) -> None:
        await self._engine.unload(self._adapter)
