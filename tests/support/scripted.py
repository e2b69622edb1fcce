"""A fake engine that scores and thinks as a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from mindprint_server.engine import AdapterRef, GenerationOutput, Priority, Sampling
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.engine.types import FinishReason
from mindprint_server.settings import Settings
from mindprint_server.wiring import Services, close_services, open_services

Rule = Callable[[str, str], float]
"""log p of a token after a text."""
Thinks = Callable[[str, Sampling], Awaitable[tuple[str, FinishReason]]]
"""What is generated after a prompt, and why it ended."""


class Scripted(FakeEngine):
    """Remembers what it was asked. Without a rule it scores, and greedily (profiles, answers) it always writes, as the
    fake engine does."""

    def __init__(
        self,
        rule: Rule | None = None,
        thinks: Thinks | None = None,
        *,
        folder: Path = Path("nowhere"),
        delay_s: float = 0.0,
        max_model_len: int = 4096,
    ) -> None:
        super().__init__(model_path=folder, delay_s=delay_s, max_model_len=max_model_len)
        self.rule = rule
        self.thinks = thinks
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.read: list[str] = []
        self.begun = asyncio.Event()
        """Something is being written."""

    def read_model_of(self, folder: Path) -> None:
        self._info = replace(self._info, model_path=str(folder))

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        self.begun.set()
        usual = await super().generate(prompt_ids, sampling, adapter=adapter, priority=priority)
        if self.thinks is None or sampling.temperature == 0:
            return usual
        prompt = self.tokenizer.decode(prompt_ids)
        self.read.append(prompt)
        return self.written(*await self.thinks(prompt, sampling))

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        usual = await super().next_logprobs(prompt_ids, token_ids, adapter=adapter, priority=priority)
        before = self.tokenizer.decode(prompt_ids)
        tokens = tuple(self.tokenizer.decode([token]) for token in token_ids)
        self.asked.append((before, tokens))
        return usual if self.rule is None else [self.rule(before, token) for token in tokens]

    def written(
        self, text: str, finish: FinishReason = "stop", logprobs: Sequence[float] | None = None
    ) -> GenerationOutput:
        """A text as if it had been generated here."""
        ids = tuple(self.tokenizer.encode(text))
        return GenerationOutput(text, ids, finish, 0, 0, None if logprobs is None else tuple(logprobs))


@asynccontextmanager
async def serving(settings: Settings, engine: FakeEngine) -> AsyncIterator[Services]:
    """Services that are closed whatever becomes of the test."""
    services = await open_services(settings, engine=engine)
    try:
        yield services
    finally:
        await close_services(services)
