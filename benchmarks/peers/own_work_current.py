"""Today's server with an engine that answers at once: a side of own_work.py, in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s  # noqa: F401 - before the first fork, as it takes seconds
from transformers import AutoTokenizer  # noqa: F401

from mindprint.model_files import resolve
from mindprint.types import DEFAULT_TENANT, Batch, BatchRequest
from mindprint_server.engine import AdapterRef, ChatParameters, GenerationOutput, Priority, RenderedPrompt, Sampling
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.engine.tokenizer import HFTokenizer
from mindprint_server.settings import Settings
from mindprint_server.tenancy import in_tenant
from mindprint_server.wiring import close_services, open_services
from support.own_work_load import DATABASE, Outcome, Side, Stub, Work, serve

NEVER = 1_000_000


class StubEngine(FakeEngine):
    """`FakeEngine` with the default model's tokenizer, and a stub's words and scores."""

    def __init__(self, stub: Stub, *, is_settled: bool) -> None:
        model = resolve("default")
        super().__init__(model_path=model, max_model_len=2048)
        self.tokenizer = HFTokenizer.load(model)  # type: ignore[assignment]
        self.shown: list[dict[str, Any]] = []
        self._stub = stub
        self._is_settled = is_settled

    async def start(self, progress: Callable[[str], None]) -> None:
        """Read no file."""
        self.ready = True

    async def chat_backend(self) -> StubBackend:
        """Return a backend that answers at once."""
        return StubBackend(self.shown)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        """Return a thinking."""
        text = self._stub.thinking(sampling.seed, is_settled=self._is_settled)
        return GenerationOutput(text, (0,) * 48, "stop", len(prompt_ids), 0, None)

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        """Return scores."""
        return self._stub.logprobs(token_ids)


class StubBackend:
    """Answers each chat with one word."""

    def __init__(self, shown: list[dict[str, Any]]) -> None:
        self._shown = shown

    async def check(self, body: Mapping[str, Any]) -> ChatParameters:
        """Accept all."""
        return ChatParameters()

    async def complete(
        self,
        body: Mapping[str, Any],
        adapter: AdapterRef | None,
        prompt: RenderedPrompt | None = None,
        *,
        count: Callable[[int], None],
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Return one word."""
        self._shown.append(dict(body))
        message = {"role": "assistant", "content": "yes"}
        return {"model": body["model"], "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    async def complete_text(
        self, body: Mapping[str, Any], adapter: AdapterRef | None, *, count: Callable[[int], None]
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Do not answer."""
        raise NotImplementedError


async def run_side(folder: Path, is_settled: bool, work: Work) -> Outcome:
    """Open a server on a folder and do the work."""
    stub = Stub()
    engine = StubEngine(stub, is_settled=is_settled)
    recall = {"recall": "recency", "recency_k": 1} if is_settled else {}
    settings = Settings.model_validate(
        {
            "data_dir": folder,
            "database_url": f"sqlite+aiosqlite:///{folder / DATABASE}",
            "engine": "fake",
            "prefilter_by_prior": False,
            "hints": False,
            "holdout_share": 0,
            "profile_every": NEVER,
            "min_answer_frequency": 0,
            "batch_spare": 0,
            **recall,
        }
    )
    services = await open_services(settings, engine=engine)

    async def run_batch(request: BatchRequest) -> Batch:
        batch, _ = await services.batches.submit(request)
        async for state in services.batches.watch(batch.id):
            batch = state
        return batch

    async def stay() -> None:
        await asyncio.Event().wait()

    async def chat(body: dict[str, Any]) -> Any:
        return await services.chat.complete(body, wait_for_disconnect=stay)

    try:
        with in_tenant(DEFAULT_TENANT):
            return await work(Side(stub, services.store.engagements.add, run_batch, chat, engine.shown))
    finally:
        await close_services(services)


if __name__ == "__main__":
    serve(run_side)
