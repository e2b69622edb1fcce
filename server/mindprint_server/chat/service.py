"""OpenAI's chat route for `base`, `user/<id>`, `cohort/<name>` and versions.

The engine's chat backend writes the answer. This service chooses the version and the mode, puts the user's memory
before the messages, and in the thinking modes generates the thinking. The backend continues the prompt with this
thinking as token ids: chat templates may cut a thinking out of messages. `chat.fallback` lists what is tried when a
version's thinking collapses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import structlog

from mindprint_server.adapters import AdapterService
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.chat.fallback import AnswerPlan, fallback_plans, is_adapter_fault
from mindprint_server.chat.messages import build_messages, parse_model_name
from mindprint_server.chat.models import found_by_model
from mindprint_server.chat.progress import Progress
from mindprint_server.chat.replies import ChunkWriter, complete_answer, empty_answer, empty_lines, thinking_chunk
from mindprint_server.chat.request import ChatRequest, read_request
from mindprint_server.chat.runner import Answer, AnswerRunner, ChatReply
from mindprint_server.chat.thinker import Asked, Collapsed, Thinker
from mindprint_server.context import ServerContext
from mindprint_server.engine import ChatBackend, ChatParameters
from mindprint_server.exceptions import Unsupported
from mindprint_server.memory import MemoryService
from mindprint_server.prompts.memory_fit import fit_memory
from mindprint_server.prompts.templates import PROMPT_VERSION, memory_text
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt, RecalledMemory
from mindprint_server.sharing.admission import AdmissionController

log = structlog.get_logger(__name__)


class ChatService:
    """Answers chat completions.

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
        self._ctx = ctx
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._memory = memory
        self._adapters = adapters
        self._auto = auto
        self._metrics = ctx.metrics
        self._runner = AnswerRunner(ctx, adapters)
        self._admission = admission
        self._backend = backend
        self._turns = TurnWriter(ctx.engine.tokenizer)
        self._thinker = Thinker(ctx, self._turns)

    async def complete(
        self, body: dict[str, Any], *, wait_for_disconnect: Callable[[], Coroutine[Any, Any, None]]
    ) -> ChatReply:
        """Answer a chat completion, whole or as a stream. A caller who disconnects ends the work in the engine.

        A stream begins with its first line, or after `stream_max_silence_s` without one. What goes wrong later is its
        last event.

        Args:
            body: The request in OpenAI's form, with our `mode`, `choices` and `thinking_temperature`.
            wait_for_disconnect: Returns when the caller disconnected. Called once, unless the request is refused.

        Raises:
            Unsupported: The engine cannot chat.
            Invalid: The request has a wrong value.
            NotFound: The model, the user or the version does not exist.
            LimitExceeded: Too many requests of the tenant wait already.
            ClientGone: The caller disconnected.
            TimeoutError: The answer did not begin within `request_timeout_s`.
        """
        if self._backend is None:
            raise Unsupported("no_chat", "this engine cannot chat: start the server with engine=vllm")
        request = read_request(
            body,
            special=self._engine.tokenizer.special,
            unsupported=self._engine.unsupported_fields,
            max_answers=min(self._settings.max_answers, self._settings.max_interactive),
        )
        if request.is_streamed:
            return await self._stream(request, wait_for_disconnect())
        progress = Progress()
        answer = await self._runner.run_whole(partial(self._reply, request, progress), wait_for_disconnect())
        assert isinstance(answer.content, dict)
        return ChatReply(
            progress.model,
            complete_answer(answer.content, progress, answer.provenance, is_continued=_is_continued(request, answer)),
        )

    async def _stream(self, request: ChatRequest, disconnect: Coroutine[Any, Any, None]) -> ChatReply:
        stream = self._runner.create_stream()

        async def show(text: str) -> None:
            await stream.send(thinking_chunk(request, text, is_first=not stream.has_begun))

        def create_writer(answer: Answer) -> Callable[[str], str]:
            is_continued = _is_continued(request, answer)
            return ChunkWriter(progress, answer.provenance, request.answers, is_continued=is_continued).write

        progress = Progress(show)
        make = partial(self._reply, request, progress)
        return await self._runner.run_stream(stream, make, create_writer, progress, disconnect)

    async def _reply(self, request: ChatRequest, progress: Progress, stack: AsyncExitStack) -> Answer:
        """Answer once the tenant has its turn, with a version; `stack` holds the slot and the version."""
        parameters = await self._check(request)
        await stack.enter_async_context(self._admission.enter(request.answers))
        # Recall the memory while the version is being loaded.
        recalling = asyncio.create_task(self._recall(request))
        try:
            with found_by_model(request.model):
                adapter = await stack.enter_async_context(self._adapters.acquire(request.model))
                memory = await recalling
        finally:
            recalling.cancel()
            await asyncio.gather(recalling, return_exceptions=True)
        progress.model = adapter.name if adapter else "base"
        kind, name = parse_model_name(request.model)
        user = name if kind == "user" else None
        mode, auto_reason = await self._auto.select(request.mode, user, adapter, request.kind)
        dropped = 0
        if memory is not None:
            memory, dropped = fit_memory(memory, partial(self._thinker.has_room, request, mode))
        asked = Asked(request, parameters, memory)
        plan, content = await self._answer(asked, fallback_plans(mode, adapter), progress)
        progress.model = plan.adapter.name if plan.adapter else "base"
        judged = plan.adapter if asked.left(progress) != 0 else None  # no answer was written
        return Answer(content, judged, self._provenance(plan, auto_reason, dropped))

    async def _check(self, request: ChatRequest) -> ChatParameters:
        """Return the parameters of a request that may think; it is refused before the thinking."""
        if request.mode == "direct":
            return ChatParameters()
        assert self._backend is not None
        fields = self._turns.chat_fields(request.body, request.messages, thinking=True)
        return await self._backend.check({**request.body, **fields})

    async def _recall(self, request: ChatRequest) -> RecalledMemory | None:
        """Recall the memory that goes before the messages; None for the base model.

        Raises:
            RecordNotFound: There is no such user.
        """
        kind, name = parse_model_name(request.model)
        if kind is None:
            return None
        if kind == "cohort":
            return RecalledMemory()
        return await self._memory.recall_existing(name, query=request.question)

    async def _answer(
        self, asked: Asked, plans: list[AnswerPlan], progress: Progress
    ) -> tuple[AnswerPlan, dict[str, Any] | AsyncGenerator[str]]:
        """Answer by the first plan that succeeds."""
        failed = None
        for plan in plans:
            if plan.fallback is not None:
                self._metrics.fallbacks.labels(to=plan.fallback).inc()
            try:
                content = await self._follow(plan, asked, progress)
            except Collapsed:
                if not asked.is_sampled_otherwise:  # else it may be the caller's doing
                    await self._adapters.report_outcome(plan.adapter, "collapsed")
            except Exception as error:
                if plan.adapter is None or not is_adapter_fault(error):
                    raise
                log.warning("a version failed: the base answers", adapter=plan.adapter.name, why=str(error))
                failed = plan.adapter
            else:
                # It is the version's fault only where the base model does better.
                await self._adapters.report_outcome(failed, "failed")
                return plan, content
        raise AssertionError("the last plan answers without thinking")

    async def _follow(self, plan: AnswerPlan, asked: Asked, progress: Progress) -> dict[str, Any] | AsyncGenerator[str]:
        """Think, where the plan says so, and answer.

        Raises:
            Collapsed: The thinking loops or says nothing.
        """
        request, special = asked.request, self._engine.tokenizer.special
        text = None if asked.memory is None else memory_text(asked.memory, special)
        built = build_messages(request.messages, plan.mode, text, request.choices, special)
        prompt: Prompt | None = None
        if asked.left(progress) == 0:
            return _nothing_left(request, progress)
        if plan.mode == "direct":
            prompt, progress.prompt_tokens = self._thinker.direct_prompt(request.body, built), None
        elif (prompt := await self._thinker.think(asked, built, plan, progress)) is None:
            return _nothing_left(request, progress)
        left = asked.left(progress)
        if plan.mode != "direct" and prompt is not None:
            # As a part of the prompt, a thinking may have more tokens than it was written with.
            fitting = self._engine.info().max_model_len - len(prompt.ids)
            if fitting <= 0:
                return _nothing_left(request, progress)
            left = None if left is None else min(left, fitting)
        assert self._backend is not None
        fields = self._turns.chat_fields(request.body, built, thinking=plan.mode != "direct")
        body = {**request.body, **fields, "request_id": request.id, **_bound(request.body, left)}
        return await self._backend.complete(body, plan.adapter, prompt, count=self._ctx.token_counter())

    def _provenance(self, plan: AnswerPlan, auto_reason: str | None, memory_dropped: int) -> dict[str, Any]:
        adapter = plan.adapter
        name = adapter.name if adapter else "base"
        return {
            "model": name,
            "adapter_digest": adapter.digest if adapter else None,
            "base_digest": self._engine.info().base_digest,
            "prompt_version": PROMPT_VERSION,
            "mode": plan.mode,
            "mode_reason": auto_reason,
            "memory_dropped": memory_dropped,
            "thinking": None if plan.mode == "direct" else name,
            "fallback": plan.fallback,
            "engine": self._engine.info().name,
        }


def _is_continued(request: ChatRequest, answer: Answer) -> bool:
    """Return whether an answer continues the caller's last message. A thinking stands before no such answer."""
    return bool(request.body.get("continue_final_message")) and answer.provenance["mode"] == "direct"


def _nothing_left(request: ChatRequest, progress: Progress) -> dict[str, Any] | AsyncGenerator[str]:
    """Return the answer where `max_tokens` ended with the thinking."""
    prompt_tokens = progress.prompt_tokens or 0
    return _lines(request, prompt_tokens) if request.is_streamed else empty_answer(request, prompt_tokens)


async def _lines(request: ChatRequest, prompt_tokens: int) -> AsyncGenerator[str]:
    for line in empty_lines(request, prompt_tokens):
        yield line


def _bound(body: Mapping[str, Any], left: int | None) -> dict[str, Any]:
    """Return the fields that bound an answer behind a thinking: both share the caller's `max_tokens`."""
    if left is None:
        return {}
    least = body.get("min_tokens")
    lowered = {"min_tokens": left} if isinstance(least, int) and least > left else {}
    return {"max_tokens": None, "max_completion_tokens": left, **lowered}
