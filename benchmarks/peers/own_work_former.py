"""The server as it was at commit 5d38946, with an engine that answers at once: a side of own_work.py.

It is run with that commit's packages on the path, whose names are others than today's.
"""
# mypy: ignore-errors

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bm25s  # noqa: F401 - before the first fork, as it takes seconds
from mindprint_server.engine.tokens import HFTokenizer
from transformers import AutoTokenizer

from mindprint.model_files import resolve
from mindprint.types import Batch, BatchRequest
from mindprint_server import services as parts
from mindprint_server.engine import AdapterRef, Generation, Priority, Sampling
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.settings import Settings
from support.own_work_load import DATABASE, Outcome, Side, Stub, Work, serve

NEVER = 1_000_000


class StubEngine(FakeEngine):
    """`FakeEngine` with the default model's tokenizer, and a stub's words and scores."""

    def __init__(self, stub: Stub, folder: Path, *, is_settled: bool) -> None:
        super().__init__(model_path=folder, max_model_len=2048)
        self.tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(resolve("default"), local_files_only=True))
        self._stub = stub
        self._is_settled = is_settled

    async def start(self, progress: Callable[[str], None]) -> None:
        """Read no file."""
        self.ready = True

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> Generation:
        """Return a thinking."""
        text = self._stub.thinking(sampling.seed, is_settled=self._is_settled)
        return Generation(text, (0,) * 48, "stop", len(prompt_ids), 0, None)

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        """Return scores."""
        return self._stub.logprobs(token_ids)


class StubBackend:
    """Answers each chat with one word."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []

    async def complete(self, body: Mapping[str, Any], adapter: AdapterRef | None) -> dict[str, Any]:
        """Return one word."""
        self.shown.append(dict(body))
        message = {"role": "assistant", "content": "yes"}
        return {"model": body["model"], "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


class StayingCaller:
    """A request whose caller waits for the answer."""

    async def receive(self) -> dict[str, Any]:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError


async def run_side(folder: Path, is_settled: bool, work: Work) -> Outcome:
    """Open a server on a folder and do the work."""
    stub = Stub()
    model = folder / "model"
    model.mkdir(exist_ok=True)
    # Read for the digest and for the shapes, of which there are none.
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    engine = StubEngine(stub, model, is_settled=is_settled)
    recall = {"recall": "recency", "recency_k": 1} if is_settled else {}
    settings = Settings(
        data_dir=folder,
        database_url=f"sqlite+aiosqlite:///{folder / DATABASE}",
        engine="fake",
        probe=False,
        hints=False,
        holdout_share=0,
        profile_every=NEVER,
        min_precedent=0,
        batch_spare=0,
        **recall,
    )
    backend = StubBackend()
    services = await parts.open_services(settings, engine=engine)
    services.chat._backend = backend

    async def run_batch(request: BatchRequest) -> Batch:
        batch, _ = await services.batches.submit(request)
        async for state in services.batches.watch(batch.id):
            batch = state
        return batch

    async def chat(body: dict[str, Any]) -> Any:
        return await services.chat.completions(body, StayingCaller())

    try:
        return await work(Side(stub, services.store.add_engagements, run_batch, chat, backend.shown))
    finally:
        await parts.close_services(services)


if __name__ == "__main__":
    serve(run_side)
