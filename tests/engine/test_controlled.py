"""Controlled questions on a real engine: given thinking is scored as written thinking, and no memory is none."""

from __future__ import annotations

from typing import Any

import pytest

from mindprint.types import Trace, TraceRequest
from mindprint_server.prompts.templates import NOTHING_KNOWN, clean
from mindprint_server.wiring import Services
from samples import engagement


async def ask(services: Services, **request: Any) -> Trace:
    asked = {"user_id": "ann", "query": "A walk by the lake?", "choices": ["yes", "no"], "target": "no"} | request
    return await services.traces.create(TraceRequest.model_validate(asked))


async def written(services: Services, **request: Any) -> Trace:
    """The first thinking that cleaning leaves as it is: random weights write all sorts of bytes."""
    for seed in range(32):
        trace = await ask(services, seed=seed, max_thinking_tokens=4, **request)
        if clean(trace.thinking, services.engine.tokenizer.special) == trace.thinking:
            return trace
    raise AssertionError("no thinking of random weights is text")


@pytest.mark.parametrize("mode", ["generic", "personal"])
async def test_imported_thinking_has_the_scores_of_generated_thinking(services: Services, mode: str) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
    wrote = await written(services, mode=mode)
    given = await ask(services, mode=mode, thinking=wrote.thinking)
    assert given.prompt == wrote.prompt
    assert wrote.choice_logprobs is not None
    assert given.choice_logprobs == pytest.approx(wrote.choice_logprobs, abs=1e-3)
    assert given.scores == pytest.approx(wrote.scores, abs=1e-3)
    other = await ask(services, mode=mode, thinking=f"{wrote.thinking} or something else altogether")
    assert other.choice_logprobs != pytest.approx(wrote.choice_logprobs, abs=1e-3)


async def test_an_open_answer_has_its_score_and_its_length(services: Services) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
    wrote = await written(services, choices=None, target="Gladly.")
    given = await ask(services, choices=None, target="Gladly.", thinking=wrote.thinking)
    assert given.scores == pytest.approx(wrote.scores, abs=1e-3)
    assert given.scores["target_tokens"] == len(services.engine.tokenizer.encode(" Gladly."))
    assert given.scores["target_logprob"] < 0


@pytest.mark.parametrize("mode", ["direct", "personal"])
async def test_without_memory_the_prompt_is_that_of_a_user_without_history(services: Services, mode: str) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
    await services.store.engagements.add("eve", [])
    how = {"mode": mode} | ({} if mode == "direct" else {"thinking": "They walk a lot, and gladly."})
    none, stranger, own = [
        await ask(services, **how, **who) for who in ({"memory": "none"}, {"user_id": "eve"}, {"memory": "own"})
    ]
    assert NOTHING_KNOWN in none.prompt
    assert none.prompt == stranger.prompt != own.prompt
    assert none.choice_logprobs == pytest.approx(stranger.choice_logprobs, abs=1e-3)
    assert none.choice_logprobs != pytest.approx(own.choice_logprobs, abs=1e-3)
