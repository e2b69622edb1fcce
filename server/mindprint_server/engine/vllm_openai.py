"""vLLM's own chat completions on the running engine: its request type, serving classes and stream format.

Where a name moved between vLLM releases, both modules are tried. Nothing is patched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from mindprint_server.engine.base import AdapterRef
from mindprint_server.engine.slots import ActiveAdapterLimiter
from mindprint_server.engine.vllm_lora import lora_request
from mindprint_server.exceptions import BackendRefused, Invalid

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

CALLERS_ERRORS = frozenset({"VLLMClientError", "VLLMValidationError"})
"""Names of vLLM's errors, and of their base classes, that a request causes."""


class VllmChat:
    """`ChatBackend` on vLLM's OpenAI serving classes. Create it with `create`."""

    def __init__(self, serving: Any, models: Any, request_type: Any, slots: ActiveAdapterLimiter) -> None:
        self._serving = serving
        self._slots = slots
        self._models = models
        self._request_type = request_type
        self._requests: Counter[str] = Counter()

    @classmethod
    async def create(cls, llm: AsyncLLM, slots: ActiveAdapterLimiter, *, model_path: str) -> VllmChat:
        """Build vLLM's serving objects, with the defaults of its command line.

        Args:
            llm: The running engine.
            slots: Limits the adapters of one engine step.
            model_path: Folder of the base model.
        """
        from argparse import Namespace
        from types import SimpleNamespace

        try:
            from vllm.entrypoints.launchers.api_server.app_state import init_app_state
            from vllm.entrypoints.launchers.cli_args import make_arg_parser
        except ImportError:  # before 0.31
            from vllm.entrypoints.openai.api_server import init_app_state
            from vllm.entrypoints.openai.cli_args import make_arg_parser
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(
            ["--model", model_path, "--served-model-name", "base", "--disable-log-stats"]
        )
        # vLLM only sets and reads attributes of Starlette's `State`.
        state = SimpleNamespace()
        await init_app_state(llm, state, args, await llm.get_supported_tasks())
        return cls(state.openai_serving_chat, state.openai_serving_models, ChatCompletionRequest, slots)

    async def complete(
        self, body: Mapping[str, Any], adapter: AdapterRef | None
    ) -> dict[str, Any] | AsyncIterator[str]:
        """Answer one chat completion; see `ChatBackend.complete`.

        Raises:
            Invalid: The request does not have OpenAI's form.
            BackendRefused: vLLM refuses the request.
        """
        from pydantic import ValidationError

        name = str(adapter.name) if adapter else "base"
        try:
            request = self._request_type.model_validate({**body, "model": name, "priority": 0})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise Invalid("validation_error", f"{where or 'body'}: {first['msg']}", param=where or None) from None
        except Exception as error:
            # Some of vLLM's validators run on the raw body and raise whatever odd values in it lead to.
            if not (_is_callers_fault(error) or isinstance(error, TypeError | AttributeError | LookupError)):
                raise
            field = getattr(error, "parameter", None)
            raise Invalid("validation_error", f"the request cannot be read: {error}", param=field) from None
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._slots.acquire(adapter))
            answer = await self._answer(request, adapter)
            if isinstance(answer, dict):
                return answer
            return _hold_while_streaming(answer, stack.pop_all())

    async def _answer(self, request: Any, adapter: AdapterRef | None) -> dict[str, Any] | AsyncIterator[str]:
        try:
            with self._registered(adapter):
                answer = await self._serving.create_chat_completion(request, None)
        except Exception as error:
            if _is_callers_fault(error):
                raise BackendRefused(400, str(error)) from error
            raise
        if hasattr(answer, "error"):
            raise BackendRefused(answer.error.code, answer.error.message, param=answer.error.param)
        if hasattr(answer, "model_dump"):
            whole: dict[str, Any] = answer.model_dump(mode="json")
            return whole
        stream: AsyncIterator[str] = answer
        return stream

    @contextmanager
    def _registered(self, adapter: AdapterRef | None) -> Iterator[None]:
        """Register the adapter's name with vLLM while it admits a request. Requests may share a registration."""
        if adapter is None:
            yield
            return
        self._requests[adapter.name] += 1
        self._models.lora_requests[adapter.name] = lora_request(adapter)
        try:
            yield
        finally:
            self._requests[adapter.name] -= 1
            if not self._requests[adapter.name]:
                del self._requests[adapter.name], self._models.lora_requests[adapter.name]


def _is_callers_fault(error: Exception) -> bool:
    """Return whether vLLM raised an error because of a value in the request."""
    # vLLM's own errors are a ValueError in some releases and none in others. An ArithmeticError comes of a huge number.
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ValueError | ArithmeticError) or not names.isdisjoint(CALLERS_ERRORS)


async def _hold_while_streaming(lines: AsyncIterator[str], stack: AsyncExitStack) -> AsyncIterator[str]:
    """Keep the adapter's slot until the stream ends."""
    async with stack:
        async for line in lines:
            yield line
