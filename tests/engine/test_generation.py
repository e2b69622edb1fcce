"""Generation and scoring on a real engine, against transformers as the reference."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mindprint_server.engine import Engine, Priority, Sampling
from mindprint_server.verdicts.likelihood import sequence_logprobs
from tiny import logprobs

NOW = Priority.INTERACTIVE
TEXT = "A tiny model reads this line, byte by byte. "


async def test_the_tokenizer_renders_and_encodes_without_additions(engine: Engine) -> None:
    tokenizer = engine.tokenizer
    assert tokenizer.render([{"role": "user", "content": "hi"}]) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.encode("a") + tokenizer.encode("b") == tokenizer.encode("ab")
    assert tokenizer.encode("<|im_end|>") == [tokenizer.chat_format.end_id]


async def test_greedy_generation_is_the_model_s(engine: Engine, tiny_model: Path) -> None:
    ids = engine.tokenizer.encode(TEXT)
    written = await engine.generate(ids, Sampling(max_tokens=6), adapter=None, priority=NOW)
    assert written.finish == "length"
    for token in written.token_ids:
        row = logprobs(tiny_model, ids)[-1]
        assert row[token] == pytest.approx(max(row), abs=1e-3)
        ids = [*ids, token]


async def test_next_logprobs_are_the_model_s(engine: Engine, tiny_model: Path) -> None:
    ids = engine.tokenizer.encode(TEXT)
    tokens = engine.tokenizer.encode("abcxyz")
    values = await engine.next_logprobs(ids, tokens, adapter=None, priority=NOW)
    row = logprobs(tiny_model, ids)[-1]
    assert values == pytest.approx([row[token] for token in tokens], abs=1e-3)


async def test_an_open_answer_is_scored_token_by_token(engine: Engine, tiny_model: Path) -> None:
    prefix, answer = engine.tokenizer.encode(TEXT), engine.tokenizer.encode("and so on")
    values = await sequence_logprobs(engine, prefix, answer, adapter=None, priority=NOW)
    rows = logprobs(tiny_model, prefix + answer)[len(prefix) - 1 :]
    assert values == pytest.approx([row[token] for row, token in zip(rows, answer, strict=False)], abs=1e-3)


async def test_sampled_tokens_come_with_their_own_logprobs(engine: Engine, tiny_model: Path) -> None:
    prefix = engine.tokenizer.encode(TEXT)
    sampling = Sampling(max_tokens=6, temperature=1.5, min_p=0.01, seed=3, logprobs=True)
    written = await engine.generate(prefix, sampling, adapter=None, priority=NOW)
    assert written.logprobs is not None
    rows = logprobs(tiny_model, [*prefix, *written.token_ids])[len(prefix) - 1 :]
    wanted = [row[token] for row, token in zip(rows, written.token_ids, strict=False)]
    assert list(written.logprobs) == pytest.approx(wanted, abs=1e-3)


async def test_engine_reports_its_load(engine: Engine) -> None:
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


async def test_a_loop_ends_early_and_says_so(engine: Engine) -> None:
    # Greedy decoding of a random model falls into a loop sooner or later.
    sampling = Sampling(max_tokens=1500, detect_loops=True)
    written = await engine.generate(engine.tokenizer.encode(TEXT), sampling, adapter=None, priority=NOW)
    assert written.finish == "loop"
    assert len(written.token_ids) < 1500


async def test_a_stop_string_is_left_out(engine: Engine) -> None:
    ids = engine.tokenizer.encode(TEXT)
    whole = await engine.generate(ids, Sampling(max_tokens=12), adapter=None, priority=NOW)
    letter = whole.text[3]
    cut = await engine.generate(ids, Sampling(max_tokens=12, stop=(letter,)), adapter=None, priority=NOW)
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(letter)]
