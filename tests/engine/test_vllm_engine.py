"""vLLM's own behaviour: its caches, its lists of requests and adapters, and bugs of its versions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mindprint_server.engine import AdapterRef, Priority, Sampling
from mindprint_server.engine.vllm import VllmEngine
from mindprint_server.settings import Settings
from tiny import make_adapter

NOW = Priority.INTERACTIVE
TEXT = "A tiny model reads this line, byte by byte. "


def ref(folder: Path, number: int) -> AdapterRef:
    return AdapterRef("user/ann", number, "sha256:0", 1000 + number, folder)


async def test_start_ends_with_the_warm_up(engine: VllmEngine, start_phases: list[str]) -> None:
    assert engine.ready
    assert start_phases[-1] == "warming up"


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


async def test_seeded_prompts_longer_than_a_step_do_not_kill_the_engine(engine: VllmEngine) -> None:
    prompts = [engine.tokenizer.encode(f"{number} " + "word " * 300) for number in range(4)]
    sampling = Sampling(max_tokens=4, temperature=1.0, seed=7)
    written = await asyncio.gather(*(engine.generate(p, sampling, adapter=None, priority=NOW) for p in prompts))
    assert all(one.token_ids for one in written)
    assert not engine.dead.is_set()


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


async def test_an_adapter_is_in_vllm_from_load_to_unload(engine: VllmEngine, adapters: list[Path]) -> None:
    one = ref(adapters[0], 1)
    await engine.load(one)
    assert one.engine_id in await engine.llm.list_loras()
    await engine.unload(one)
    assert one.engine_id not in await engine.llm.list_loras()


async def test_refused_files_are_named_in_the_message(engine: VllmEngine, tiny_model: Path, tmp_path: Path) -> None:
    too_big = make_adapter(tiny_model, tmp_path / "big", seed=1, rank=32)
    with pytest.raises(ValueError, match="refused adapter user/ann@20"):
        await engine.load(ref(too_big, 20))
    with pytest.raises(ValueError, match="refused"):
        await engine.load(ref(tmp_path / "nowhere", 21))
