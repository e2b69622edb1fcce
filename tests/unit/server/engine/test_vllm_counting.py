"""Tokens of chats and completions are counted while they are written; vLLM itself: `tests/engine`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from mindprint_server.engine.vllm_counting import CountingClient, counting


class Kind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class Params:
    output_kind: Kind


@dataclass
class Sequence:
    index: int
    token_ids: list[int]


@dataclass
class Output:
    outputs: list[Sequence]
    finished: bool = False


@dataclass
class Llm:
    """Writes two sequences by turns: the first of 3 tokens, the second of 5. As vLLM, it joins what is read late."""

    name: str = "tiny"
    kinds: list[Kind] = field(default_factory=list)
    closed: int = 0

    async def generate(self, prompt: str, params: Params, request_id: str) -> AsyncGenerator[Output]:
        self.kinds.append(params.output_kind)
        assert params.output_kind != Kind.FINAL_ONLY, "it would tell nothing before the end"
        sizes = {0: [1, 1, 1], 1: [1, 2, 2]}
        written: dict[int, list[int]] = {0: [], 1: []}
        try:
            for step in range(3):
                for index, steps in sizes.items():
                    new = [7] * steps[step]
                    written[index] += new
                    ids = new if params.output_kind == Kind.DELTA else list(written[index])
                    yield Output([Sequence(index, ids)], finished=(step, index) == (2, 1))
                    await asyncio.sleep(0)
        finally:
            self.closed += 1


def generate(llm: Llm, counts: list[int], kind: Kind) -> AsyncGenerator[Any]:
    with counting(counts.append):
        return CountingClient(llm).generate("Tea", Params(kind), "1")


@pytest.mark.parametrize("kind", [Kind.DELTA, Kind.CUMULATIVE])
async def test_each_token_of_a_stream_counts_once(kind: Kind) -> None:
    counts: list[int] = []
    llm = Llm()
    outputs = [output async for output in generate(llm, counts, kind)]
    assert len(outputs) == 6
    assert counts == [1, 1, 1, 2, 1, 2]
    assert llm.kinds == [kind]


async def test_a_stream_that_is_closed_counts_what_was_written() -> None:
    counts: list[int] = []
    llm = Llm()
    async with aclosing(generate(llm, counts, Kind.DELTA)) as outputs:
        async for _ in outputs:
            if len(counts) == 4:
                break
    assert (sum(counts), llm.closed) == (5, 1)


async def test_a_whole_answer_is_one_output_with_all_sequences() -> None:
    counts: list[int] = []
    params = Params(Kind.FINAL_ONLY)
    with counting(counts.append):
        outputs = [output async for output in CountingClient(Llm()).generate("Tea", params, "1")]
    assert outputs == [Output([Sequence(0, [7] * 3), Sequence(1, [7] * 5)], finished=True)]
    assert sum(counts) == 8
    assert params.output_kind == Kind.FINAL_ONLY, "the caller's own"


async def test_a_whole_answer_that_is_cancelled_counts_what_was_written() -> None:
    counts: list[int] = []
    llm = Llm()
    last = asyncio.create_task(anext(generate(llm, counts, Kind.FINAL_ONLY)))
    while len(counts) < 3:  # noqa: ASYNC110 (each turn lets the generation write)
        await asyncio.sleep(0)
    last.cancel()
    await asyncio.gather(last, return_exceptions=True)
    assert (sum(counts), llm.closed) == (sum([1, 1, 1, 2, 1, 2][: len(counts)]), 1)
    assert sum(counts) < 8


async def test_nothing_is_counted_for_the_servers_own_work_and_the_rest_is_the_engine() -> None:
    llm = Llm()
    client = CountingClient(llm)
    assert client.name == "tiny"
    assert [len(output.outputs) async for output in client.generate("Tea", Params(Kind.DELTA), "1")] == [1] * 6
