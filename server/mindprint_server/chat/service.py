"""OpenAI's chat routes for `base`, `user/<id>`, `cohort/<name>` and versions.

The engine's chat backend writes the answer. This service chooses the version and the mode, puts the user's memory
before the messages, and in the thinking modes generates the thinking, which the backend continues as the assistant's
own words. `chat.fallback` lists what is tried when a version's thinking collapses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from mindprint.types import AskedMode, Mode
from mindprint.types.keys import VersionRef
from mindprint_server.adapters import AdapterService
from mindprint_server.adapters.health import Outcome, outcome_of
from mindprint_server.admission import AdmissionController
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.bounds import check_lengths, check_numbers, read_answer_count
from mindprint_server.chat.fallback import AnswerPlan, fallback_plans, is_adapter_fault
from mindprint_server.chat.messages import (
    add_mode_line,
    add_reasoning,
    add_reasoning_to_chunk,
    build_messages,
    parse_model_name,
    read_messages,
    read_mode,
    read_model,
    reject_unsupported,
    remove_special_tokens,
)
from mindprint_server.chat.streaming import cancel_on_disconnect, stream_answer
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, ChatBackend, Message, Priority, PromptTooLong
from mindprint_server.engine.sampling import create_sampling
from mindprint_server.exceptions import Invalid, Unsupported
from mindprint_server.memory import MemoryService
from mindprint_server.prompts import thinking
from mindprint_server.prompts.templates import PROMPT_VERSION, memory_text, prefix_with_reminders
from mindprint_server.prompts.types import RecalledMemory
from mindprint_server.verdicts.checks import ThinkingChecker

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Answer:
    """An answer of the backend, with how it came about.

    Attributes:
        content: The whole answer, or the lines of its event stream.
        reasoning: The thinking; empty for none.
        plan: The plan that succeeded.
        adapter: The version that was asked for; None is the base model.
        outcome: How that version did. It is not `fine` if a fallback answered for it.
        auto_reason: Why `mode: auto` chose the mode; None if the caller chose it.
    """

    content: dict[str, Any] | AsyncIterator[str]
    reasoning: str
    plan: AnswerPlan
    adapter: AdapterRef | None
    outcome: Outcome
    auto_reason: str | None = None


@dataclass(frozen=True)
class ChatReply:
    """What a caller receives.

    Attributes:
        model: The version that answered; `base` is the base model.
        content: The whole answer in OpenAI's form, or the lines of its event stream. The stream holds the adapter and
            the admission of the request until it ends, so that it has to be read or closed.
    """

    model: str
    content: dict[str, Any] | AsyncIterator[str]


class ChatService:
    """Answers chat completions and lists the models.

    Args:
        ctx: Settings, store, engine and metrics of the server.
        memory: Recalls the memory of a user.
        adapters: Resolves model names to loaded versions.
        auto: Chooses the mode of `mode: auto` requests.
        admission: Bounds the requests.
        backend: Answers on the engine; None if the engine cannot chat.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        memory: MemoryService,
        adapters: AdapterService,
        auto: AutoModeSelector,
        admission: AdmissionController,
        backend: ChatBackend | None,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._memory = memory
        self._adapters = adapters
        self._auto = auto
        self._metrics = ctx.metrics
        self._cutoff = ctx.shutdown.answering
        self._admission = admission
        self._backend = backend
        self._checker = ThinkingChecker(ctx.settings)

    async def models(self) -> dict[str, Any]:
        """List the base model, every adapter with a live version, and every version that may be named."""
        cards = [self._card("base", 0)]
        for adapter in await self._store.adapters.list_all():
            for version in adapter.versions:
                created = int(version.created_at.timestamp())
                if adapter.live == version.version:
                    cards.append(self._card(adapter.key, created, root=VersionRef.of(adapter.key, version.version)))
                if version.state != "refused" and version.files:
                    cards.append(self._card(VersionRef.of(adapter.key, version.version), created))
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

    async def complete(
        self, body: dict[str, Any], *, wait_for_disconnect: Callable[[], Coroutine[Any, Any, None]]
    ) -> ChatReply:
        """Answer a chat completion, whole or as a stream. A caller who disconnects ends the work in the engine.

        Args:
            body: The request in OpenAI's form, with our `mode`.
            wait_for_disconnect: Returns when the caller disconnected. Called once, unless the request is refused.

        Raises:
            Unsupported: The engine cannot chat.
            Invalid: The request has a wrong value.
            NotFound: The model, the user or the version does not exist.
            LimitExceeded: Too many requests run already.
            ClientGone: The caller disconnected.
            TimeoutError: The answer did not begin within `request_timeout_s`.
        """
        if self._backend is None:
            raise Unsupported("no_chat", "this engine cannot chat: start the server with engine=vllm")
        body = remove_special_tokens(body, self._engine.tokenizer.special)
        started = time.monotonic()
        reject_unsupported(body, self._engine.unsupported_fields)
        model, mode, messages = read_model(body), read_mode(body.pop("mode", "direct")), read_messages(body)
        check_lengths(body)
        check_numbers(body)
        answers = read_answer_count(body, min(self._settings.max_answers, self._settings.max_interactive))
        async with AsyncExitStack() as stack:
            stack.enter_context(self._admission.enter(answers))
            work = self._reply(body, messages, model, mode, stack)
            async with asyncio.timeout(self._settings.request_timeout_s):
                answer = await cancel_on_disconnect(wait_for_disconnect(), work)
            provenance = self._provenance(answer)

            if isinstance(answer.content, dict):
                self._metrics.first_token_seconds.observe(time.monotonic() - started)
                return ChatReply(provenance["model"], add_reasoning(answer.content, answer.reasoning, provenance))

            def complete_first(line: str) -> str:
                self._metrics.first_token_seconds.observe(time.monotonic() - started)
                return add_reasoning_to_chunk(line, answer.reasoning, provenance)

            # An outcome other than `fine` was reported when it happened.
            adapter = answer.adapter if answer.outcome == "fine" else None
            # The stream outlives this function; it takes over the hold on the adapter.
            lines = stream_answer(
                answer.content,
                cutoff=self._cutoff,
                first=complete_first,
                report=partial(self._adapters.report_outcome, adapter),
                stack=stack.pop_all(),
            )
            return ChatReply(provenance["model"], lines)

    async def _reply(
        self,
        body: Mapping[str, Any],
        messages: list[dict[str, Any]],
        model: str,
        wanted: AskedMode,
        stack: AsyncExitStack,
    ) -> Answer:
        """Answer with a version that `stack` holds in the engine."""
        # Recall the memory while the version is being loaded.
        recalling = asyncio.create_task(self._recall(messages, model, wanted))
        try:
            adapter = await stack.enter_async_context(self._adapters.acquire(model))
            memory = await recalling
        finally:
            recalling.cancel()
            await asyncio.gather(recalling, return_exceptions=True)
        kind, name = parse_model_name(model)
        mode, auto_reason = await self._auto.select(wanted, name if kind == "user" else None, adapter, "open")
        answer = replace(await self._answer(body, messages, memory, mode, adapter), auto_reason=auto_reason)
        if isinstance(answer.content, dict) or answer.outcome != "fine":
            await self._adapters.report_outcome(adapter, answer.outcome)
        return answer

    async def _recall(self, messages: Sequence[dict[str, Any]], model: str, wanted: AskedMode) -> RecalledMemory | None:
        """Recall the memory that goes before the messages; None for the base model.

        Raises:
            Invalid: The messages cannot be asked in this mode.
            RecordNotFound: There is no such user.
        """
        special = self._engine.tokenizer.special
        kind, name = parse_model_name(model)
        mode: Mode = "direct" if wanted == "auto" else wanted  # messages that fit one mode fit all
        if kind is not None or mode != "direct":
            add_mode_line(messages, mode, special)  # to validate the messages
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
        for plan in fallback_plans(mode, adapter):
            if plan.fallback is not None:
                self._metrics.fallbacks.labels(to=plan.fallback).inc()
            built = build_messages(messages, plan.mode, text, special)
            try:
                reasoning = "" if plan.mode == "direct" else await self._think(built, plan, memory)
                if reasoning is not None:
                    request = self._backend_request(body, built, plan, reasoning)
                    content = await self._backend.complete(request, plan.adapter)
                    return Answer(content, reasoning, plan, adapter, outcome)
                outcome = outcome if plan.adapter is None else "collapsed"
            except Exception as error:
                if plan.adapter is None or not is_adapter_fault(error):
                    raise
                log.warning("a version failed: the base answers", adapter=plan.adapter.name, why=str(error))
                outcome = "failed"
        raise AssertionError("the last plan answers without thinking")

    async def _think(
        self, messages: Sequence[Mapping[str, Any]], plan: AnswerPlan, memory: RecalledMemory | None
    ) -> str | None:
        """Generate the thinking. Return None if it collapsed: it loops or says nothing."""
        thinking_prefix = self._settings.thinking_prefixes.get(plan.mode, "")
        if plan.mode == "personal" and memory is not None:
            thinking_prefix = prefix_with_reminders(thinking_prefix, memory, self._engine.tokenizer.special)
        plain: list[Message] = [{"role": m["role"], "content": m["content"]} for m in messages]
        prompt = self._engine.tokenizer.render(plain) + thinking.render_thinking_prefix(thinking_prefix)
        sampling = create_sampling(
            self._settings, max_tokens=self._settings.max_thinking_tokens, temperature=0.0, stop=(thinking.STOP,)
        )
        try:
            generated = await self._engine.generate(
                self._engine.tokenizer.encode(prompt), sampling, adapter=plan.adapter, priority=Priority.INTERACTIVE
            )
        except PromptTooLong as error:
            raise Invalid("prompt_too_long", str(error), param="messages") from error
        reasoning = thinking.finalize_thinking(thinking_prefix, generated.text, generated.finish)
        reason = self._checker.check(
            reasoning, thinking_prefix=thinking_prefix, mode=plan.mode, finish=generated.finish
        )
        return None if outcome_of(reason) == "collapsed" else reasoning

    def _backend_request(
        self, body: Mapping[str, Any], messages: list[dict[str, Any]], plan: AnswerPlan, reasoning: str
    ) -> dict[str, Any]:
        """Build the request for the backend, which continues the thinking as an unfinished assistant message."""
        if plan.mode == "direct":
            return {**body, "messages": messages}
        begun = {"role": "assistant", "content": thinking.render_thinking(reasoning, self._settings.answer_prefix)}
        return {**body, "messages": [*messages, begun], "add_generation_prompt": False, "continue_final_message": True}

    def _provenance(self, answer: Answer) -> dict[str, Any]:
        adapter = answer.plan.adapter
        name = adapter.name if adapter else "base"
        return {
            "model": name,
            "adapter_digest": adapter.digest if adapter else None,
            "base_digest": self._engine.info().base_digest,
            "prompt_version": PROMPT_VERSION,
            "mode": answer.plan.mode,
            "mode_reason": answer.auto_reason,
            "thinking": None if answer.plan.mode == "direct" else name,
            "fallback": answer.plan.fallback,
            "engine": self._engine.info().name,
        }
