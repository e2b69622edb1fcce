"""OpenAI's chat route for `base`, `user/<id>` and versions: brings the user's memory, adapter and way of thinking.

The answer itself is vLLM's. What happens here: whose memory goes before the messages, which adapter answers, and, in
the thinking modes, the thinking that is written first and then continued by vLLM as the assistant's own words.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, TypeVar, get_args

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from mindprint.types import Mode
from mindprint_server import thinking
from mindprint_server.adapters import AdapterLife
from mindprint_server.admission import Admission
from mindprint_server.engine import AdapterRef, Engine, Message, Priority, PromptTooLong, Sampling
from mindprint_server.errors import ApiError
from mindprint_server.memory import Memory
from mindprint_server.metrics import Metrics
from mindprint_server.prompts import PROMPT_VERSION, Recollection, memory_text, query_text
from mindprint_server.settings import Settings
from mindprint_server.store import Store

Result = TypeVar("Result")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
_MODEL = re.compile(rf"base|(?P<kind>user|cohort)/(?P<name>{_NAME})(@[1-9][0-9]{{0,8}})?")


class Backend(Protocol):
    """What answers in the end."""

    async def complete(
        self, body: Mapping[str, Any], adapter: AdapterRef | None
    ) -> dict[str, Any] | AsyncIterator[str]: ...


class Chat:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Engine,
        memory: Memory,
        adapters: AdapterLife,
        metrics: Metrics,
        admission: Admission,
        base_digest: str,
        backend: Backend | None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._memory = memory
        self._adapters = adapters
        self._metrics = metrics
        self._admission = admission
        self._base_digest = base_digest
        self._backend = backend

    async def models(self) -> dict[str, Any]:
        """`GET /v1/models`: the base, every adapter's key, and every version that may be named."""
        cards = [self._card("base", 0)]
        for adapter in await self._store.adapters():
            for version in adapter.versions:
                made = int(version.created_at.timestamp())
                if adapter.live == version.version:
                    cards.append(self._card(adapter.key, made, root=f"{adapter.key}@{version.version}"))
                if version.state != "refused":
                    cards.append(self._card(f"{adapter.key}@{version.version}", made))
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
            raise ApiError(501, "no_chat", "this engine cannot chat: start the server with engine=vllm")
        body = dict(body)
        began = time.monotonic()
        refuse(body)
        model, mode = self._model_of(body), mode_of(body.pop("mode", "direct"))
        messages = await self._messages(body.get("messages"), model, mode)
        async with AsyncExitStack() as held:
            held.enter_context(self._admission.enter())
            adapter = await held.enter_async_context(self._adapters.use(model))
            work = self._answer(body, messages, mode, adapter)
            async with asyncio.timeout(self._settings.request_timeout_s):
                thought, answer = await while_connected(request, work)
            headers = {"Mindprint-Model": adapter.name if adapter else "base"}
            made_by = self._provenance(mode, adapter)
            if isinstance(answer, dict):
                self._metrics.first_token_seconds.observe(time.monotonic() - began)
                return JSONResponse(with_thought(answer, thought, made_by), headers=headers)
            # The stream outlives this function, and so must its hold on the adapter.
            lines = self._stream(answer, thought, made_by, held.pop_all(), began)
            return StreamingResponse(lines, media_type="text/event-stream", headers=headers)

    def _model_of(self, body: Mapping[str, Any]) -> str:
        model = body.get("model")
        if not isinstance(model, str) or len(model) > 84 or not _MODEL.fullmatch(model):
            message = "model must be base, user/<id> or cohort/<name>, the latter two optionally with @<version>"
            raise ApiError(404, "model_not_found", message, param="model")
        return model

    async def _messages(self, messages: object, model: str, mode: Mode) -> list[dict[str, Any]]:
        """The caller's messages with the user's memory before them and the mode's line at their end."""
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise ApiError(422, "validation_error", "messages must be a list of at least one message", param="messages")
        match = _MODEL.fullmatch(model)
        if match is None or match["kind"] is None:
            return messages if mode == "direct" else asked(messages, mode, self._engine.tokenizer.special)
        if match["kind"] == "user":
            await self._store.user(match["name"])
        special = self._engine.tokenizer.special
        asking = asked(messages, mode, special)
        memory = Recollection()
        if match["kind"] == "user":
            memory, _ = await self._memory.recall(match["name"], before=None, query=messages[-1]["content"])
        return remembered(asking, memory_text(memory, special))

    async def _answer(
        self, body: Mapping[str, Any], messages: list[dict[str, Any]], mode: Mode, adapter: AdapterRef | None
    ) -> tuple[str, dict[str, Any] | AsyncIterator[str]]:
        assert self._backend is not None
        if mode == "direct":
            return "", await self._backend.complete({**body, "messages": messages}, adapter)
        thought = await self._think(messages, mode, adapter)
        turn = {"role": "assistant", "content": thinking.wrap(thought, self._settings.answer_lead)}
        continued = {
            **body,
            "messages": [*messages, turn],
            "add_generation_prompt": False,
            "continue_final_message": True,
        }
        return thought, await self._backend.complete(continued, adapter)

    async def _think(self, messages: Sequence[Mapping[str, Any]], mode: Mode, adapter: AdapterRef | None) -> str:
        opening = self._settings.openings.get(mode, "")
        plain: list[Message] = [{"role": m["role"], "content": m["content"]} for m in messages]
        prompt = self._engine.tokenizer.render(plain) + thinking.lead(opening)
        sampling = Sampling(max_tokens=self._settings.max_thinking_tokens, stop=(thinking.STOP,), detect_loops=True)
        try:
            written = await self._engine.generate(
                self._engine.tokenizer.encode(prompt), sampling, adapter=adapter, priority=Priority.INTERACTIVE
            )
        except PromptTooLong as error:
            raise ApiError(422, "prompt_too_long", str(error), param="messages") from error
        return thinking.settle(opening, written.text, written.finish)

    def _provenance(self, mode: Mode, adapter: AdapterRef | None) -> dict[str, Any]:
        return {
            "model": adapter.name if adapter else "base",
            "adapter_digest": adapter.digest if adapter else None,
            "base_digest": self._base_digest,
            "prompt_version": PROMPT_VERSION,
            "mode": mode,
            "engine": self._engine.info().name,
        }

    async def _stream(
        self,
        lines: AsyncIterator[str],
        thought: str,
        made_by: dict[str, Any],
        held: AsyncExitStack,
        began: float,
    ) -> AsyncIterator[str]:
        """vLLM's event lines; the first chunk also carries the thinking and what made the answer."""
        async with held:
            first = True
            async for line in lines:
                if first:
                    first = False
                    self._metrics.first_token_seconds.observe(time.monotonic() - began)
                    line = first_chunk(line, thought, made_by)
                yield line


# --- pure --------------------------------------------------------------------------


def refuse(body: Mapping[str, Any]) -> None:
    """Raises ApiError for what would end the engine for everybody: on CPU, vLLM dies of the log-probabilities of two
    prompts in one step when it serves adapters (docs/decisions/005)."""
    if body.get("prompt_logprobs") is not None:
        message = "prompt_logprobs are not offered: ask for logprobs of the answer"
        raise ApiError(422, "validation_error", message, param="prompt_logprobs")


def mode_of(value: object) -> Mode:
    for mode in get_args(Mode):
        if value == mode:
            return mode  # type: ignore[no-any-return]
    raise ApiError(422, "validation_error", "mode must be direct, generic or personal", param="mode")


def asked(messages: Sequence[dict[str, Any]], mode: Mode, special: Sequence[str]) -> list[dict[str, Any]]:
    """The last message as the prompt builder would ask it. Raises ApiError if it is not a user's text."""
    last = messages[-1]
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        message = "for user/… models and thinking modes the last message must be of role user, with text content"
        raise ApiError(422, "validation_error", message, param="messages")
    if not all(isinstance(m.get("content"), str) and isinstance(m.get("role"), str) for m in messages):
        raise ApiError(422, "validation_error", "every message needs a role and text content", param="messages")
    return [*messages[:-1], {**last, "content": query_text(last["content"], None, mode, special)}]


def remembered(messages: Sequence[dict[str, Any]], memory: str) -> list[dict[str, Any]]:
    """Memory first, then the caller's own system message, for the memory is what requests of a user share."""
    if messages[0].get("role") == "system":
        own, rest = messages[0]["content"], messages[1:]
        return [{"role": "system", "content": f"{memory}\n\n{own}"}, *rest]
    return [{"role": "system", "content": memory}, *messages]


def with_thought(answer: dict[str, Any], thought: str, made_by: dict[str, Any]) -> dict[str, Any]:
    """A whole answer with `reasoning_content` beside its content and `mindprint`, what made it."""
    for choice in answer.get("choices", []):
        if thought:
            choice["message"]["reasoning_content"] = thought
        if isinstance(choice["message"].get("content"), str):
            choice["message"]["content"] = choice["message"]["content"].lstrip()
    return {**answer, "mindprint": made_by}


def first_chunk(line: str, thought: str, made_by: dict[str, Any]) -> str:
    """The first line of an event stream, likewise; a line that holds no chunk stays as it is."""
    head, _, data = line.partition("data: ")
    try:
        chunk = json.loads(data)
    except ValueError:
        return line
    if head or not isinstance(chunk, dict) or "error" in chunk:
        return line
    for choice in chunk.get("choices", []):
        if thought:
            choice["delta"]["reasoning_content"] = thought
    return f"data: {json.dumps({**chunk, 'mindprint': made_by}, ensure_ascii=False)}\n\n"


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the caller goes away. Raises ApiError (499) then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "client_closed_request", "the caller went away before the answer")
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
