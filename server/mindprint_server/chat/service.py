"""OpenAI's chat route for `base`, `user/<id>`, `cohort/<name>` and versions: memory, adapter and way of thinking.

The answer itself is vLLM's. What happens here: whose memory goes before the messages, which adapter answers, and, in
the thinking modes, the thinking that is written first and then continued by vLLM as the assistant's own words. Where a
version's thinking collapses the base does all of it instead, and where that collapses too, answers without thinking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import structlog
from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from mindprint.types import AskedMode, Mode
from mindprint.types.keys import VersionRef
from mindprint_server.adapters import AdapterService
from mindprint_server.adapters.health import Outcome, outcome_of
from mindprint_server.admission import AdmissionController
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.messages import (
    asked,
    first_chunk,
    messages_of,
    mode_of,
    model_of,
    refuse,
    turn,
    whose,
    with_thought,
)
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, EngineDied, Message, Priority, PromptTooLong
from mindprint_server.engine.sampling import create_sampling
from mindprint_server.exceptions import ClientGone, Invalid, ServerError, Unsupported
from mindprint_server.memory import MemoryService
from mindprint_server.prompts import thinking
from mindprint_server.prompts.templates import PROMPT_VERSION, memory_text, opening_text
from mindprint_server.prompts.types import RecalledMemory
from mindprint_server.verdicts.checks import ThinkingChecker

log = structlog.get_logger(__name__)
Result = TypeVar("Result")


class Backend(Protocol):
    """What answers in the end."""

    async def complete(
        self, body: Mapping[str, Any], adapter: AdapterRef | None
    ) -> dict[str, Any] | AsyncIterator[str]: ...


@dataclass(frozen=True)
class AnswerPlan:
    """How an answer may be come by."""

    by: AdapterRef | None
    mode: Mode
    fallback: Literal["base", "direct"] | None = None


@dataclass(frozen=True)
class Answer:
    content: dict[str, Any] | AsyncIterator[str]
    thought: str
    way: AnswerPlan
    asked: AdapterRef | None
    """Who was to answer."""
    outcome: Outcome
    """How that went."""
    route: str | None = None
    """Why this mode, where `auto` chose it."""


class ChatService:
    def __init__(
        self,
        ctx: ServerContext,
        *,
        memory: MemoryService,
        adapters: AdapterService,
        auto: AutoModeSelector,
        admission: AdmissionController,
        backend: Backend | None,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._memory = memory
        self._adapters = adapters
        self._auto = auto
        self._metrics = ctx.metrics
        self._admission = admission
        self._backend = backend
        self._checker = ThinkingChecker(ctx.settings)

    async def models(self) -> dict[str, Any]:
        """`GET /v1/models`: the base, every adapter's key, and every version that may be named."""
        cards = [self._card("base", 0)]
        for adapter in await self._store.adapters.list_all():
            for version in adapter.versions:
                made = int(version.created_at.timestamp())
                if adapter.live == version.version:
                    cards.append(self._card(adapter.key, made, root=VersionRef.of(adapter.key, version.version)))
                if version.state != "refused" and version.files:
                    cards.append(self._card(VersionRef.of(adapter.key, version.version), made))
        return {"object": "list", "data": cards}

    def _card(self, name: str, created: int, root: str | None = None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "mindprint",
            "root": root or name,
            "parent": None if name == "base" else "base",
            "max_model_len": self._engine.info().max_model_len,
        }

    async def completions(self, body: dict[str, Any], request: Request) -> Response:
        """`POST /v1/chat/completions`. A caller who goes away ends the work in the engine."""
        if self._backend is None:
            raise Unsupported("no_chat", "this engine cannot chat: start the server with engine=vllm")
        body = dict(body)
        began = time.monotonic()
        refuse(body)
        model, mode, messages = model_of(body), mode_of(body.pop("mode", "direct")), messages_of(body)
        async with AsyncExitStack() as held:
            held.enter_context(self._admission.enter())
            work = self._reply(body, messages, model, mode, held)
            async with asyncio.timeout(self._settings.request_timeout_s):
                answer = await while_connected(request, work)
            made_by = self._provenance(answer)
            headers = {"Mindprint-Model": made_by["model"]}
            if isinstance(answer.content, dict):
                self._metrics.first_token_seconds.observe(time.monotonic() - began)
                return JSONResponse(with_thought(answer.content, answer.thought, made_by), headers=headers)
            # The stream outlives this function, and so must its hold on the adapter.
            lines = self._stream(answer.content, answer, made_by, held.pop_all(), began)
            return StreamingResponse(lines, media_type="text/event-stream", headers=headers)

    async def _reply(
        self,
        body: Mapping[str, Any],
        messages: list[dict[str, Any]],
        model: str,
        wanted: AskedMode,
        held: AsyncExitStack,
    ) -> Answer:
        """`held` keeps the adapter in the engine."""
        # The adapter is on its way into the engine while the memory is recalled.
        recalling = asyncio.create_task(self._recalled(messages, model, wanted))
        try:
            adapter = await held.enter_async_context(self._adapters.acquire(model))
            memory = await recalling
        finally:
            recalling.cancel()
            await asyncio.gather(recalling, return_exceptions=True)
        kind, name = whose(model)
        mode, route = await self._auto.select(wanted, name if kind == "user" else None, adapter, "open")
        answer = replace(await self._answer(body, messages, memory, mode, adapter), route=route)
        if isinstance(answer.content, dict) or answer.outcome != "fine":
            await self._adapters.report_outcome(adapter, answer.outcome)
        return answer

    async def _recalled(
        self, messages: Sequence[dict[str, Any]], model: str, wanted: AskedMode
    ) -> RecalledMemory | None:
        """The memory that goes before the messages; None for the base. Raises Invalid for messages that cannot be
        asked this way, NotFound."""
        special = self._engine.tokenizer.special
        kind, name = whose(model)
        mode: Mode = "direct" if wanted == "auto" else wanted  # what can be asked in one mode can be in all
        if kind is not None or mode != "direct":
            asked(messages, mode, special)
        if kind is None:
            return None
        memory = RecalledMemory()
        if kind == "user":
            await self._store.users.get(name)
            memory, _ = await self._memory.recall(name, before=None, query=messages[-1]["content"])
        return memory

    async def _answer(
        self,
        body: Mapping[str, Any],
        messages: list[dict[str, Any]],
        memory: RecalledMemory | None,
        mode: Mode,
        adapter: AdapterRef | None,
    ) -> Answer:
        assert self._backend is not None
        special = self._engine.tokenizer.special
        text = None if memory is None else memory_text(memory, special)
        outcome: Outcome = "fine"
        for way in ways(mode, adapter):
            if way.fallback is not None:
                self._metrics.fallbacks.labels(to=way.fallback).inc()
            read = turn(messages, way.mode, text, special)
            try:
                thought = "" if way.mode == "direct" else await self._think(read, way, memory)
                if thought is not None:
                    content = await self._backend.complete(self._continued(body, read, way, thought), way.by)
                    return Answer(content, thought, way, adapter, outcome)
                outcome = outcome if way.by is None else "collapsed"
            except Exception as error:
                if way.by is None or not is_the_version_s(error):
                    raise
                log.warning("a version failed: the base answers", adapter=way.by.name, why=str(error))
                outcome = "failed"
        raise AssertionError("the last way is an answer without thinking")

    async def _think(
        self, read: Sequence[Mapping[str, Any]], way: AnswerPlan, memory: RecalledMemory | None
    ) -> str | None:
        """None if the thinking loops or says nothing."""
        opening = self._settings.openings.get(way.mode, "")
        if way.mode == "personal" and memory is not None:
            opening = opening_text(opening, memory, self._engine.tokenizer.special)
        plain: list[Message] = [{"role": m["role"], "content": m["content"]} for m in read]
        prompt = self._engine.tokenizer.render(plain) + thinking.thinking_prefix(opening)
        sampling = create_sampling(
            self._settings, max_tokens=self._settings.max_thinking_tokens, temperature=0.0, stop=(thinking.STOP,)
        )
        try:
            written = await self._engine.generate(
                self._engine.tokenizer.encode(prompt), sampling, adapter=way.by, priority=Priority.INTERACTIVE
            )
        except PromptTooLong as error:
            raise Invalid("prompt_too_long", str(error), param="messages") from error
        thought = thinking.finalize_thinking(opening, written.text, written.finish)
        reason = self._checker.check(thought, opening=opening, mode=way.mode, finish=written.finish)
        return None if outcome_of(reason) == "collapsed" else thought

    def _continued(
        self, body: Mapping[str, Any], read: list[dict[str, Any]], way: AnswerPlan, thought: str
    ) -> dict[str, Any]:
        if way.mode == "direct":
            return {**body, "messages": read}
        begun = {"role": "assistant", "content": thinking.render_thinking(thought, self._settings.answer_lead)}
        return {**body, "messages": [*read, begun], "add_generation_prompt": False, "continue_final_message": True}

    def _provenance(self, answer: Answer) -> dict[str, Any]:
        by = answer.way.by
        name = by.name if by else "base"
        return {
            "model": name,
            "adapter_digest": by.digest if by else None,
            "base_digest": self._engine.info().base_digest,
            "prompt_version": PROMPT_VERSION,
            "mode": answer.way.mode,
            "route": answer.route,
            "thinking": None if answer.way.mode == "direct" else name,
            "fallback": answer.way.fallback,
            "engine": self._engine.info().name,
        }

    async def _stream(
        self, lines: AsyncIterator[str], answer: Answer, made_by: dict[str, Any], held: AsyncExitStack, began: float
    ) -> AsyncIterator[str]:
        """vLLM's event lines; the first chunk also carries the thinking and what made the answer."""
        async with held:
            first, fine = True, answer.outcome == "fine"  # anything else was told when it happened
            try:
                async for line in lines:
                    if first:
                        first = False
                        self._metrics.first_token_seconds.observe(time.monotonic() - began)
                        line = first_chunk(line, answer.thought, made_by)
                    yield line
            except Exception:
                await self._adapters.report_outcome(answer.asked if fine else None, "failed")
                raise
            await self._adapters.report_outcome(answer.asked if fine else None, "fine")


# --- pure --------------------------------------------------------------------------


def ways(mode: Mode, adapter: AdapterRef | None) -> list[AnswerPlan]:
    """How an answer may be come by, the best first. A whole answer comes one way: never are two models mixed in it."""
    found = [AnswerPlan(adapter, mode)]
    if adapter is not None:
        found.append(AnswerPlan(None, mode, "base"))
    if mode != "direct":
        found.append(AnswerPlan(None, "direct", "direct"))
    return found


def is_the_version_s(error: Exception) -> bool:
    """Whether an error may be the fault of the version that was asked: then the base may do better."""
    if isinstance(error, ServerError):
        return error.is_server_fault
    return not isinstance(error, EngineDied | PromptTooLong | TimeoutError)


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the caller goes away. Raises ClientGone then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("client_closed_request", "the caller went away before the answer")
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
