"""A chat service on a scripted engine and backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from lives import Gate
from mindprint.types import QueryKind
from mindprint_server.admission import AdmissionController
from mindprint_server.chat.service import ChatReply, ChatService
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, GenerationOutput, Priority, Sampling
from mindprint_server.engine.base import FinishReason
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.gate import checks
from mindprint_server.wiring import Services

GOOD = (" they walked by the quiet lake before and liked it", "stop")


LOOP = (" the lake the lake the lake the lake the lake the lake the lake", "loop")


EMPTY = ("", "stop")


PREFIX = "What this user has shown:"


Written = tuple[str, FinishReason]


class Engine(FakeEngine):
    """Thinks what `thinks` has for a model's name, or raises it; the base's is there for all."""

    def __init__(self, folder: Path) -> None:
        super().__init__(model_path=folder)
        self.thinks: dict[str, Written | Exception] = {"base": GOOD}  # type: ignore[dict-item]

    async def generate(
        self, prompt_ids: Any, sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        text = self.thinks.get(adapter.name if adapter else "base", GOOD)
        if isinstance(text, Exception):
            raise text
        return GenerationOutput(text[0], (1,), text[1], 0, 0)  # type: ignore[arg-type]


class Backend:
    """Answers with the name of who was asked, as a whole or as a stream; fails for those in `broken`."""

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self.broken: dict[str, Exception] = {}
        self.cut = False

    async def complete(
        self, body: Mapping[str, Any], adapter: AdapterRef | None
    ) -> dict[str, Any] | AsyncIterator[str]:
        name = adapter.name if adapter else "base"
        if name in self.broken:
            raise self.broken[name]
        self.bodies.append(body)
        if not body.get("stream"):
            return {"choices": [{"message": {"role": "assistant", "content": f" {name}"}}]}
        return self._lines(name)

    async def _lines(self, name: str) -> AsyncIterator[str]:
        for _ in range(2):
            yield f"data: {json.dumps({'choices': [{'delta': {'content': name}}]})}\n\n"
            if self.cut:
                raise RuntimeError("broken off")
        yield "data: [DONE]\n\n"


class Room:
    def __init__(self, services: Services, engine: Engine) -> None:
        self.services, self.engine, self.backend = services, engine, Backend()
        self.chat = ChatService(
            ServerContext(services.settings, services.store, engine, services.metrics),
            memory=services.memory,
            adapters=services.adapters,
            auto=services.auto,
            admission=AdmissionController(9, 1),
            backend=self.backend,
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
    room.services.adapters._publisher._gate = gate


async def lines(reply: ChatReply) -> list[dict[str, Any]]:
    assert not isinstance(reply.content, dict)
    texts = [line async for line in reply.content]
    return [json.loads(line[6:]) for line in texts if "DONE" not in line]
