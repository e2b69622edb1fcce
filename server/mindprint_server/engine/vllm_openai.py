"""vLLM's own chat and text completions on the running engine: its request types, serving classes and stream format.

Where a name moved between vLLM releases, both modules are tried. Nothing is patched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from copy import copy
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mindprint.chat_format import ChatFormat
from mindprint_server.engine.base import ChatParameters, RenderedPrompt
from mindprint_server.engine.slots import ActiveAdapterLimiter
from mindprint_server.engine.types import AdapterRef, EngineDied
from mindprint_server.engine.vllm_counting import Count, CountingClient, counting
from mindprint_server.engine.vllm_errors import is_callers_fault, raise_error, read_message, refusal_of, unreadable
from mindprint_server.engine.vllm_lora import lora_request
from mindprint_server.engine.vllm_options import explain_flags, serve_parser
from mindprint_server.exceptions import BackendRefused, Invalid
from mindprint_server.tenancy import cache_salt

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

MAX_SALT_CHARS = 256
LITERAL_TEMPLATE = "{{ mindprint_prompt }}"
"""Chat template that writes a rendered prompt."""


@dataclass(frozen=True)
class _Serving:
    """Serving classes of vLLM: chats, raw prompts, and the models that they know."""

    chat: Any
    completions: Any
    models: Any


class VllmChat:
    """`ChatBackend` on vLLM's OpenAI serving classes. Create it with `create`.

    A rendered prompt, and a continued message, have their thinking behind them. vLLM's reasoning parsers read only what
    is written after it, and take all of that for thinking. So they have serving classes without such a parser.
    """

    def __init__(
        self,
        serving: _Serving,
        continuing: _Serving,
        request_type: Any,
        slots: ActiveAdapterLimiter,
        chat_format: ChatFormat,
        max_tokens: int,
        scores_prompts: bool,
        llm: AsyncLLM,
    ) -> None:
        self._llm = llm
        self._serving = serving
        self._continuing = continuing
        self._slots = slots
        self._request_type = request_type
        self._chat_format = chat_format
        self._max_tokens = max_tokens
        self._scores_prompts = scores_prompts
        self._takes_ids = False
        self._requests: Counter[str] = Counter()

    @classmethod
    async def create(
        cls,
        llm: AsyncLLM,
        slots: ActiveAdapterLimiter,
        *,
        model_path: str,
        chat_format: ChatFormat,
        chat_template: str | None,
        options: Mapping[str, Any],
    ) -> VllmChat:
        """Build vLLM's serving objects, with the defaults of its command line.

        Args:
            llm: The running engine.
            slots: Limits the adapters of one engine step.
            model_path: Folder of the base model.
            chat_format: The model's chat format.
            chat_template: The template that it was decided from. None lets vLLM choose one.
            options: Options of the chat routes in place of the defaults, by the names of vLLM's Python.
        """
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.platforms import current_platform

        # On a GPU the V1 model runner computes the logits of all prompt tokens of a step at once. They may not fit.
        scores_prompts = current_platform.is_cpu() or getattr(llm.vllm_config, "use_v2_model_runner", False)

        client = CountingClient(llm)

        async def build(*more: str) -> VllmChat:
            words = ["--model", model_path, "--served-model-name", "base", "--disable-log-stats", *more]
            args = serve_parser().parse_args(words, Namespace(**options))
            # vLLM would take a processor's template first, which may be another one than the tokenizer's (0.32).
            args.chat_template = chat_template
            if "chat_template_content_format" not in options:
                # As in all other prompts. vLLM gives lists of parts to a template that has a loop over parts anywhere.
                args.chat_template_content_format = "openai" if chat_format.takes_parts else "string"
            structured = llm.vllm_config.structured_outputs_config
            args.structured_outputs_config = structured
            continuing = serving = await _serve(client, args)
            if structured.reasoning_parser:
                args.structured_outputs_config = copy(structured)
                args.structured_outputs_config.reasoning_parser = ""
                continuing = await _serve(client, args)
            max_tokens = llm.model_config.max_model_len
            return cls(serving, continuing, ChatCompletionRequest, slots, chat_format, max_tokens, scores_prompts, llm)

        chat = await build()
        if await chat._try_ids():
            chat._takes_ids = True
            return chat
        return await build("--trust-request-chat-template")  # for `LITERAL_TEMPLATE`

    async def _try_ids(self) -> bool:
        """Return whether this release of vLLM reads the token ids of a prompt in a chat request (0.32 does)."""
        ids = [self._chat_format.end_id, self._chat_format.end_id]
        body = {"model": "base", "messages": [{"role": "user", "content": "x"}], **_ids_fields(ids)}
        rendered = await self._serving.chat.render_chat_request(self._request_type.model_validate(body))
        with contextlib.suppress(TypeError, LookupError):  # an error response, or the form of another release
            return list(rendered[1][0]["prompt_token_ids"]) == ids
        return False

    def _fields(self, body: Mapping[str, Any], prompt: RenderedPrompt | None) -> dict[str, Any]:
        """Return the fields of a request with the tokens that end a turn and the prompt, if there is one.

        Raises:
            Invalid: The caller sent a template or token ids, which would circumvent the cleaning of texts.
        """
        arguments = body.get("chat_template_kwargs")
        if body.get("chat_template") is not None or (isinstance(arguments, Mapping) and "chat_template" in arguments):
            message = "chat_template is not taken from requests: leave it out, the model's own is used"
            raise Invalid("validation_error", message, param="chat_template")
        transfer = body.get("kv_transfer_params")
        if isinstance(transfer, Mapping) and "prompt_token_ids" in transfer:
            message = "kv_transfer_params: prompt_token_ids are not taken from requests: send messages"
            raise Invalid("validation_error", message, param="kv_transfer_params")
        stop_ids = body.get("stop_token_ids")
        fields = dict(body)
        if not body.get("ignore_eos") and (stop_ids is None or isinstance(stop_ids, list)):
            fields["stop_token_ids"] = [*(stop_ids or ()), *self._chat_format.stop_ids]
        if prompt is None:
            return fields
        for field in ("add_generation_prompt", "continue_final_message", "echo", "add_special_tokens"):
            fields.pop(field, None)
        fields["messages"] = [{"role": "user", "content": ""}]  # the prompt has the messages
        return fields | (_ids_fields(prompt.ids) if self._takes_ids else _text_fields(prompt.text))

    def _read(self, body: Mapping[str, Any], engine_name: str, prompt: RenderedPrompt | None) -> Any:
        """Return a request as vLLM's own type.

        Raises:
            Invalid: It does not have OpenAI's form.
        """
        return _read_request(self._request_type, self._fields(body, prompt), engine_name)

    async def check(self, body: Mapping[str, Any]) -> ChatParameters:
        """Check a request before its thinking; see `ChatBackend.check`."""
        request = self._read(body, "base", None)
        given = dict(request)  # vLLM marks `max_tokens` as deprecated, so that reading the attribute warns
        limit = given["max_tokens"] if given["max_completion_tokens"] is None else given["max_completion_tokens"]
        try:
            rendered = await self._serving.chat.render_chat_request(request)
            if not (hasattr(rendered, "error") or request.use_beam_search):
                request.to_sampling_params(self._max_tokens if limit is None else limit, {})
        except Exception as error:
            if is_callers_fault(error):
                raise refusal_of(error, body) from error
            raise
        raise_error(rendered, body)
        sampling = {one.name: given.get(one.name) for one in fields(ChatParameters)}
        return ChatParameters(**sampling | {"max_tokens": limit})

    async def complete(
        self,
        body: Mapping[str, Any],
        adapter: AdapterRef | None,
        prompt: RenderedPrompt | None = None,
        *,
        count: Count,
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Answer one chat completion; see `ChatBackend.complete`.

        Raises:
            Invalid: The request does not have OpenAI's form.
            BackendRefused: vLLM refuses the request.
        """
        request = self._read(body, _engine_name(adapter), prompt)
        has_thinking_behind = prompt is not None or request.continue_final_message
        serving = self._continuing if has_thinking_behind else self._serving
        with counting(count):
            return await self._answer_in_slot(serving.chat.create_chat_completion, request, adapter, body)

    async def complete_text(
        self, body: Mapping[str, Any], adapter: AdapterRef | None, *, count: Count
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Continue raw prompts; see `ChatBackend.complete_text`.

        Raises:
            Invalid: The request does not have OpenAI's form.
            BackendRefused: vLLM refuses the request.
        """
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest

        request = _read_request(CompletionRequest, body, _engine_name(adapter))
        if request.echo and request.logprobs is not None and not self._scores_prompts:
            message = "echo with logprobs needs vLLM's V2 model runner on a GPU: leave out one of the two"
            raise Invalid("validation_error", message, param="echo")
        with counting(count):
            return await self._answer_in_slot(self._serving.completions.create_completion, request, adapter, body)

    async def _answer_in_slot(
        self,
        create: Callable[..., Awaitable[Any]],
        request: Any,
        adapter: AdapterRef | None,
        body: Mapping[str, Any],
    ) -> dict[str, Any] | AsyncGenerator[str]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._slots.acquire(adapter))
            answer = await self._answer(create, request, adapter, body)
            if isinstance(answer, dict):
                return answer
            lines = _hold_while_streaming(answer, stack.pop_all())
            await anext(lines)  # a generator that never began would never give the slot back
            return lines

    async def _answer(
        self,
        create: Callable[..., Awaitable[Any]],
        request: Any,
        adapter: AdapterRef | None,
        body: Mapping[str, Any],
    ) -> dict[str, Any] | AsyncGenerator[str]:
        try:
            with self._registered(adapter):
                answer = await create(request, None)
        except Exception as error:
            self._check_alive(error)
            if is_callers_fault(error):
                raise refusal_of(error, body) from error
            raise
        asked = str(body.get("model", "base"))
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # vLLM answers a cancelled request with an error
        if hasattr(answer, "error"):
            self._check_alive()
        raise_error(answer, body)
        if hasattr(answer, "model_dump"):
            whole: dict[str, Any] = answer.model_dump(mode="json")
            return whole | {"model": asked}
        return self._with_model(answer, request.model, asked)

    async def _with_model(self, lines: AsyncGenerator[str], old: str, new: str) -> AsyncGenerator[str]:
        """Write the caller's name of a model for the engine's. Inside of a text, JSON has a backslash before quotes.

        Raises:
            BackendRefused: vLLM ends the stream with an error.
            EngineDied: It does so because the engine is gone.
        """
        before, after = f'"model":"{old}"', f'"model":"{new}"'
        async with aclosing(lines):
            async for line in lines:
                if line.startswith('data: {"error":'):
                    self._check_alive()
                    error = json.loads(line.removeprefix("data: "))["error"]
                    message, param = read_message(error["message"], {})
                    code = int(error["code"])
                    raise BackendRefused(code, explain_flags(message), param=error.get("param") or param)
                yield line.replace(before, after)

    def _check_alive(self, cause: Exception | None = None) -> None:
        """Check that the engine runs, after vLLM answered with an error.

        Raises:
            EngineDied: The engine is gone.
        """
        if self._llm.errored:
            raise EngineDied("the engine process ended") from cause

    @contextmanager
    def _registered(self, adapter: AdapterRef | None) -> Iterator[None]:
        """Register the adapter's name with vLLM while it admits a request. Requests may share a registration."""
        if adapter is None:
            yield
            return
        name = adapter.engine_name
        known = [serving.models.lora_requests for serving in (self._serving, self._continuing)]
        self._requests[name] += 1
        for adapters in known:
            adapters[name] = lora_request(adapter)
        try:
            yield
        finally:
            self._requests[name] -= 1
            if not self._requests[name]:
                del self._requests[name]
                for adapters in known:
                    adapters.pop(name, None)


async def _serve(llm: CountingClient, args: Namespace) -> _Serving:
    try:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    except ImportError:  # before 0.31
        from vllm.entrypoints.openai.api_server import init_app_state

    # vLLM only sets and reads attributes of Starlette's `State`.
    state = SimpleNamespace()
    await init_app_state(llm, state, args, await llm.get_supported_tasks())
    return _Serving(state.openai_serving_chat, state.openai_serving_completion, state.openai_serving_models)


def _engine_name(adapter: AdapterRef | None) -> str:
    return adapter.engine_name if adapter else "base"


def _read_request(request_type: Any, fields: Mapping[str, Any], engine_name: str) -> Any:
    """Return a request as vLLM reads it, with the names of the engine and the tenant's salt of the prefix cache.

    Raises:
        Invalid: It does not have OpenAI's form.
    """
    salt = cache_salt(_callers_salt(fields))
    try:
        return request_type.model_validate({**fields, "model": engine_name, "priority": 0, "cache_salt": salt})
    except Exception as error:
        # Some of vLLM's validators run on the raw body and raise whatever odd values in it lead to.
        if not (is_callers_fault(error) or isinstance(error, TypeError | AttributeError | LookupError)):
            raise
        raise unreadable(error, fields) from None


def _ids_fields(ids: Sequence[int]) -> dict[str, Any]:
    """Return the field by which vLLM reads a prompt as token ids instead of rendering the messages."""
    return {"kv_transfer_params": {"prompt_token_ids": list(ids)}}


def _text_fields(text: str) -> dict[str, Any]:
    """Return the fields by which releases of vLLM before 0.32 read a rendered prompt."""
    return {"chat_template": LITERAL_TEMPLATE, "chat_template_kwargs": {"mindprint_prompt": text}}


def _callers_salt(body: Mapping[str, Any]) -> str | None:
    """Return the caller's own salt of the prefix cache.

    Raises:
        Invalid: It is no text, or an empty one.
    """
    salt = body.get("cache_salt")
    if salt is None or (isinstance(salt, str) and 0 < len(salt) <= MAX_SALT_CHARS):
        return salt
    message = f"cache_salt must be a text of 1 to {MAX_SALT_CHARS} characters, or left out"
    raise Invalid("validation_error", message, param="cache_salt")


async def _hold_while_streaming(lines: AsyncGenerator[str], stack: AsyncExitStack) -> AsyncGenerator[str]:
    """Keep the adapter's slot until the stream ends. An empty line comes before the others."""
    async with stack, aclosing(lines):
        yield ""
        async for line in lines:
            yield line
