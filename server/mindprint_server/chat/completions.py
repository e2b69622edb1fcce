"""OpenAI's route for raw prompts: texts or token ids go to the model as they are, without a chat template.

A version's adapter applies. A user's memory does not go before the prompt, and nothing thinks: both are parts of a
chat. Special tokens stay in the texts, unlike in a chat: the whole prompt is the caller's, who may send ids as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from mindprint.types.keys import ModelName
from mindprint_server.adapters import AdapterService
from mindprint_server.chat.bounds import check_lengths, check_numbers, read_answer_count
from mindprint_server.chat.fallback import is_adapter_fault
from mindprint_server.chat.messages import read_model, reject_unsupported
from mindprint_server.chat.models import found_by_model
from mindprint_server.chat.progress import Progress
from mindprint_server.chat.request import check_id, read_stream
from mindprint_server.chat.runner import Answer, AnswerRunner, ChatReply
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, ChatBackend
from mindprint_server.exceptions import Invalid, Unsupported
from mindprint_server.sharing.admission import AdmissionController

REFUSED: Mapping[str, str] = {
    "messages": "messages are not taken here: send prompt, or send them to /v1/chat/completions",
    "mode": "mode is not taken here: a raw prompt has no thinking; send messages to /v1/chat/completions",
    "prompt_embeds": "prompt_embeds are not taken: send prompt as text or token ids",
    "prompt_logprobs": "prompt_logprobs are not offered: send echo with logprobs",
    "use_beam_search": "use_beam_search is not offered: send n for several answers",
}
"""Fields that are refused, each with the message for the caller."""


@dataclass(frozen=True)
class _Prompt:
    """A request that can be answered: its body, whose model, and how many sequences it generates at once."""

    body: Mapping[str, Any]
    model: ModelName
    sequences: int


class CompletionService:
    """Answers text completions.

    Args:
        ctx: Settings, store, engine and metrics of the server.
        adapters: Resolves model names to loaded versions.
        admission: Bounds the requests.
        backend: Answers on the engine; None if the engine cannot.
    """

    def __init__(
        self,
        ctx: ServerContext,
        *,
        adapters: AdapterService,
        admission: AdmissionController,
        backend: ChatBackend | None,
    ) -> None:
        self._ctx = ctx
        self._settings = ctx.settings
        self._adapters = adapters
        self._admission = admission
        self._backend = backend
        self._runner = AnswerRunner(ctx, adapters)

    async def complete(
        self, body: dict[str, Any], *, wait_for_disconnect: Callable[[], Coroutine[Any, Any, None]]
    ) -> ChatReply:
        """Answer a text completion, whole or as a stream. A caller who disconnects ends the work in the engine.

        Args:
            body: The request in OpenAI's form.
            wait_for_disconnect: Returns when the caller disconnected. Called once, unless the request is refused.

        Raises:
            Unsupported: The engine cannot complete prompts.
            Invalid: The request has a wrong value.
            NotFound: The model, the user or the version does not exist.
            LimitExceeded: Too many requests of the tenant wait already.
            ClientGone: The caller disconnected.
            TimeoutError: The answer did not begin within `request_timeout_s`.
        """
        if self._backend is None:
            raise Unsupported(
                "no_completions", "this engine cannot complete prompts: start the server with engine=vllm"
            )
        reject_unsupported(body, REFUSED)
        body = {field: value for field, value in body.items() if not (field == "suffix" and value == "")}
        is_streamed = read_stream(body)
        check_id(body)
        prompt = _Prompt(body, read_model(body), self._read_sequences(body))
        progress = Progress()
        make = partial(self._answer, prompt, progress)
        if is_streamed:
            stream = self._runner.create_stream()
            return await self._runner.run_stream(stream, make, create_writer, progress, wait_for_disconnect())
        return whole_reply(await self._runner.run_whole(make, wait_for_disconnect()), progress)

    def _read_sequences(self, body: Mapping[str, Any]) -> int:
        """Return how many sequences a request generates at once.

        Raises:
            Invalid: They are too many, or a field is too long.
        """
        check_lengths(body)
        check_numbers(body)
        most = min(self._settings.max_interactive, self._settings.max_num_seqs)
        answers = read_answer_count(body, min(self._settings.max_answers, most))
        if (body.get("best_of") or 1) > (body.get("n") or 1):
            message = "best_of above n is not offered: vLLM would ignore it; send n, and choose by the logprobs"
            raise Invalid("validation_error", message, param="best_of")
        sequences = count_prompts(body.get("prompt")) * answers
        if sequences > most:
            message = f"prompt and n ask for {sequences} answers, of at most {most} at once: send fewer prompts"
            raise Invalid("validation_error", message, param="prompt")
        return sequences

    async def _answer(self, prompt: _Prompt, progress: Progress, stack: AsyncExitStack) -> Answer:
        """Answer once the tenant has its turn, with a version; `stack` holds the slots and the version."""
        assert self._backend is not None
        await stack.enter_async_context(self._admission.enter(prompt.sequences))
        with found_by_model(prompt.model):
            if prompt.model.key is not None and prompt.model.key.user_id is not None:
                await self._ctx.store.users.get(prompt.model.key.user_id)
            adapter = await stack.enter_async_context(self._adapters.acquire(prompt.model, may_fall_back=False))
        try:
            content = await self._backend.complete_text(prompt.body, adapter, count=self._ctx.token_counter())
        except Exception as error:
            if is_adapter_fault(error):
                await self._adapters.report_outcome(adapter, "failed")
            raise
        provenance = self._provenance(adapter)
        progress.model = provenance["model"]
        judged = adapter if prompt.body.get("max_tokens") != 0 else None  # the prompt alone was scored
        return Answer(content, judged, provenance)

    def _provenance(self, adapter: AdapterRef | None) -> dict[str, Any]:
        info = self._ctx.engine.info()
        return {
            "model": str(adapter.name) if adapter else "base",
            "adapter_digest": adapter.digest if adapter else None,
            "base_digest": info.base_digest,
            "engine": info.name,
        }


def count_prompts(prompt: object) -> int:
    """Return how many prompts a request has.

    Args:
        prompt: A text, a list of texts, a list of token ids, or a list of such lists.

    Raises:
        Invalid: There is none, or one of them is empty.
    """
    prompts = [prompt]
    if isinstance(prompt, list) and not all(type(item) is int for item in prompt):
        prompts = prompt
    if not all(isinstance(one, str | list) and one for one in prompts):
        message = "prompt must be a text, a list of texts, token ids, or a list of lists of them; none may be empty"
        raise Invalid("validation_error", message, param="prompt")
    return len(prompts)


def whole_reply(answer: Answer, progress: Progress) -> ChatReply:
    """Return a whole answer as its caller gets it."""
    assert isinstance(answer.content, dict)
    for choice in answer.content.get("choices", ()):
        choice.pop("prompt_logprobs", None)  # vLLM's own form of what `logprobs` says already
    return ChatReply(progress.model, {**answer.content, "mindprint": answer.provenance})


def create_writer(answer: Answer) -> Callable[[str], str]:
    """Return a function that puts `mindprint` in the first line of a stream, and passes the others on."""
    has_begun = False

    def write(line: str) -> str:
        nonlocal has_begun
        is_first, has_begun = not has_begun, True
        return add_provenance(line, answer.provenance) if is_first else line

    return write


def add_provenance(line: str, provenance: Mapping[str, Any]) -> str:
    """Return a line of an event stream with `mindprint` in its chunk; an error does not change.

    Args:
        line: The line, with its `data: ` prefix.
        provenance: What made the answer.
    """
    try:
        chunk = json.loads(line.removeprefix("data: "))
    except ValueError:
        return line
    if not isinstance(chunk, dict) or "error" in chunk:
        return line
    return f"data: {json.dumps({**chunk, 'mindprint': provenance}, ensure_ascii=False)}\n\n"
