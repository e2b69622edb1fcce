"""A chat service on a scripted engine and backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path
from typing import Any

from lives import Gate
from mindprint.types import QueryKind
from mindprint_server.chat.completions import CompletionService
from mindprint_server.chat.runner import ChatReply
from mindprint_server.chat.service import ChatService
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, ChatParameters, GenerationOutput, Priority, RenderedPrompt, Sampling
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.engine.types import FinishReason
from mindprint_server.gate import checks
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.wiring import Services

GOOD = (" they walked by the quiet lake before and liked it", "stop")


LOOP = (" the lake the lake the lake the lake the lake the lake the lake", "loop")


EMPTY = ("", "stop")


PREFIX = "What this user has shown:"


Written = tuple[str, FinishReason]


class Engine(FakeEngine):
    """Thinks what `thinks` has for a model's name, or raises it; the base's is there for all. It obeys `max_tokens`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(model_path=folder)
        self.thinks: dict[str, Written | Exception] = {"base": GOOD}  # type: ignore[dict-item]
        self.samplings: list[Sampling] = []
        self.prompts: list[str] = []
        self.may_go_on = asyncio.Event()
        """A streamed thinking waits for it after its first token."""
        self.may_go_on.set()

    async def generate(
        self, prompt_ids: Any, sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        self.samplings.append(sampling)
        self.prompts.append(self.tokenizer.decode(prompt_ids))
        written = self.thinks.get(adapter.name if adapter else "base", GOOD)
        if isinstance(written, Exception):
            raise written
        text: str = written[0]
        finish: FinishReason = written[1]  # type: ignore[assignment]
        ids = self.tokenizer.encode(text)
        if len(ids) > sampling.max_tokens:
            ids = ids[: sampling.max_tokens]
            text, finish = self.tokenizer.decode(ids), "length"
        return GenerationOutput(text, tuple(ids), finish, 0, 0)

    async def stream(
        self, prompt_ids: Any, sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> AsyncGenerator[GenerationOutput]:
        async with aclosing(super().stream(prompt_ids, sampling, adapter=adapter, priority=priority)) as outputs:
            async for output in outputs:
                yield output
                await self.may_go_on.wait()


class Backend:
    """Answers with the name of who was asked, in two tokens, as a whole or as a stream; fails for those in `broken`."""

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self.prompts: list[RenderedPrompt | None] = []
        self.broken: dict[str, Exception] = {}
        self.refused: Exception | None = None
        """Raised by `check`."""
        self.cut = False

    async def check(self, body: Mapping[str, Any]) -> ChatParameters:
        if self.refused is not None:
            raise self.refused
        given = {one.name: body.get(one.name) for one in fields(ChatParameters)}
        return ChatParameters(**given | {"max_tokens": body.get("max_completion_tokens", body.get("max_tokens"))})

    async def complete(
        self,
        body: Mapping[str, Any],
        adapter: AdapterRef | None,
        prompt: RenderedPrompt | None = None,
        *,
        count: Callable[[int], None],
    ) -> dict[str, Any] | AsyncGenerator[str]:
        name = adapter.name if adapter else "base"
        if name in self.broken:
            raise self.broken[name]
        self.bodies.append(body)
        self.prompts.append(prompt)
        read = 10 if prompt is None else len(prompt.ids)
        usage = {"prompt_tokens": read, "completion_tokens": 2, "total_tokens": read + 2}
        if body.get("stream"):
            return self._lines(name, usage if body.get("stream_options") else None, count)
        count(2)
        message = {"role": "assistant", "content": f" {name}", "reasoning": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}

    async def complete_text(
        self, body: Mapping[str, Any], adapter: AdapterRef | None, *, count: Callable[[int], None]
    ) -> dict[str, Any] | AsyncGenerator[str]:
        name = adapter.name if adapter else "base"
        if name in self.broken:
            raise self.broken[name]
        self.bodies.append(body)
        if not body.get("stream"):
            count(3)
            choice = {"text": name, "prompt_logprobs": None}
            return {"model": body["model"], "choices": [choice], "usage": {"completion_tokens": 3}}
        return self._texts(name, str(body["model"]), count)

    async def _texts(self, name: str, model: str, count: Callable[[int], None]) -> AsyncGenerator[str]:
        for _ in range(2):
            count(1)
            yield event(model=model, choices=[{"text": name}])
            if self.cut:
                raise RuntimeError("broken off")
        yield "data: [DONE]\n\n"

    async def _lines(
        self, name: str, usage: dict[str, int] | None, count: Callable[[int], None]
    ) -> AsyncGenerator[str]:
        count(1)
        yield event(choices=[{"index": 0, "delta": {"role": "assistant", "content": f" {name[:2]}"}}])
        if self.cut:
            raise RuntimeError("broken off")
        count(1)
        yield event(choices=[{"index": 0, "delta": {"content": name[2:]}, "finish_reason": "stop"}])
        if usage is not None:
            yield event(choices=[], usage=usage)
        yield "data: [DONE]\n\n"


def event(**chunk: Any) -> str:
    return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"


class Room:
    def __init__(self, services: Services, engine: Engine) -> None:
        self.services, self.engine, self.backend = services, engine, Backend()
        self.ctx = ServerContext(services.settings, services.store, engine, services.metrics)
        self.chat = ChatService(
            self.ctx,
            memory=services.memory,
            adapters=services.adapters,
            auto=services.auto,
            admission=AdmissionController(9, 1),
            backend=self.backend,
        )
        self.completions = CompletionService(
            self.ctx, adapters=services.adapters, admission=AdmissionController(9, 1), backend=self.backend
        )

    async def ask(self, model: str = "user/ann", mode: str = "personal", **body: Any) -> dict[str, Any]:
        """The reply of a caller who stays, with its `mindprint` field."""
        reply = await self.reply({"model": model, "mode": mode, **body})
        assert isinstance(reply.content, dict)
        assert reply.model == reply.content["mindprint"]["model"]
        return reply.content

    async def reply(self, body: dict[str, Any]) -> ChatReply:
        async def wait_for_disconnect() -> None:
            await asyncio.Event().wait()

        messages = [{"role": "user", "content": "A walk by the lake?"}]
        return await self.chat.complete({"messages": messages, **body}, wait_for_disconnect=wait_for_disconnect)

    def counted(self, name: str, **labels: str) -> float:
        return self.services.metrics.registry.get_sample_value(f"mindprint_{name}", labels) or 0.0

    def outcomes(self) -> dict[str, float]:
        kinds = ("fine", "collapsed", "failed")
        return {kind: count for kind in kinds if (count := self.counted("adapter_answers_total", outcome=kind))}


def thought(reply: dict[str, Any]) -> str | None:
    return reply["choices"][0]["message"].get("reasoning_content")  # type: ignore[no-any-return]


async def _direct(room: Room) -> Mapping[str, Any]:
    await room.ask(mode="direct")
    return room.backend.bodies[-1]


def examined(room: Room, gains: list[float], kind: QueryKind = "open") -> None:
    """The next version's gate finds this of its thinking."""
    gate = Gate()
    gate.checks = [checks.check_thinking_gain(kind, gains, confidence=0.95)]
    room.services.publications._publisher._gate = gate


async def lines(reply: ChatReply) -> list[dict[str, Any]]:
    """The events of a stream, without comments."""
    assert not isinstance(reply.content, dict)
    texts = [line async for line in reply.content]
    return [json.loads(line[6:]) for line in texts if line.startswith("data: ") and "DONE" not in line]


def joined(events: Sequence[Mapping[str, Any]], name: str, index: int = 0) -> str:
    """What the events say in one field of an answer's message."""
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(name) or "" for choice in choices)
