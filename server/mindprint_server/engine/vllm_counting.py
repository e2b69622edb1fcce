"""Counts the tokens that vLLM writes for chats and completions while it writes them, also of those that end early."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from copy import copy
from typing import Any

Count = Callable[[int], None]
"""Gets the number of tokens by which a sequence has grown."""
_count: ContextVar[Count | None] = ContextVar("count", default=None)


@contextmanager
def counting(count: Count) -> Iterator[None]:
    """Count the tokens of all generations that begin during the block, to their ends."""
    token = _count.set(count)
    try:
        yield
    finally:
        _count.reset(token)


class CountingClient:
    """vLLM's engine client for its serving classes: the engine itself, but for `generate`.

    It counts the tokens that `usage` of an answer counts. Those that a stream's caller left unread are not known.

    Args:
        llm: The running engine.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(self, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        """Generate as the engine does, and count the tokens for the running `counting`."""
        count, kind = _count.get(), sampling_params.output_kind
        if count is None:
            return self._llm.generate(prompt, sampling_params, *args, **kwargs)  # type: ignore[no-any-return]
        if kind.name != "FINAL_ONLY":
            outputs = self._llm.generate(prompt, sampling_params, *args, **kwargs)
            return _counted(outputs, count, is_delta=kind.name == "DELTA")
        # Of a whole answer that ends early, vLLM would tell nothing.
        growing = copy(sampling_params)
        growing.output_kind = type(kind)["CUMULATIVE"]
        return _last(_counted(self._llm.generate(prompt, growing, *args, **kwargs), count, is_delta=False))


async def _counted(outputs: AsyncGenerator[Any], count: Count, *, is_delta: bool) -> AsyncGenerator[Any]:
    """Pass outputs on, and count by how many tokens their sequences have grown."""
    written: dict[int, int] = {}
    async with aclosing(outputs):
        async for output in outputs:
            for sequence in output.outputs:
                length, before = len(sequence.token_ids), written.get(sequence.index, 0)
                grown = length if is_delta else length - before
                if grown > 0:
                    written[sequence.index] = before + grown
                    count(grown)
            yield output


async def _last(outputs: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """Yield the last output alone, with the last state of every sequence, as vLLM's `FINAL_ONLY` does."""
    sequences: dict[int, Any] = {}
    async with aclosing(outputs):
        async for output in outputs:
            sequences |= {sequence.index: sequence for sequence in output.outputs}
            if output.finished:
                output.outputs = [sequences[index] for index in sorted(sequences)]
                yield output
