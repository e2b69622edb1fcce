"""The engine protocol: token ids in, token ids and log-probabilities out.

Every implementation (vLLM, the fake of the tests) keeps the contracts of `Engine`. Log-probabilities are in nats.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mindprint.chat_format import ChatFormat
from mindprint_server.engine.model_shapes import Shapes
from mindprint_server.engine.types import (
    AdapterRef,
    EngineInfo,
    EngineStats,
    GenerationOutput,
    Priority,
    Sampling,
)


class Tokenizer(Protocol):
    """The model's tokenizer and chat template."""

    @property
    def chat_format(self) -> ChatFormat:
        """What was decided about the chat template."""
        ...

    @property
    def special(self) -> tuple[str, ...]:
        """Texts of the special tokens, and the model's soft switches. User text must not contain them."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of token ids: each id is at least 0 and below it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokenize `text` without adding special tokens. Those written in the text count as special tokens."""
        ...

    def forget(self) -> None:
        """Drop what is remembered of the running work's tenant."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Apply the chat template, up to where the assistant's turn goes on.

        Args:
            messages: Messages in OpenAI's form.
            thinking: Whether the turn begins with a thinking. Without, no thinking is open at the end.
            arguments: Further arguments of the template, such as `tools`.

        Raises:
            TemplateRefused: The template refuses the messages.
        """
        ...


class RenderedPrompt(Protocol):
    """A prompt as text and as the token ids that the engine reads."""

    @property
    def text(self) -> str:
        """The text."""
        ...

    @property
    def ids(self) -> Sequence[int]:
        """Its token ids."""
        ...


@dataclass(frozen=True)
class ChatParameters:
    """What a chat request says about the tokens that are generated. None: it says nothing.

    Attributes:
        max_tokens: Most tokens that may be written.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None


class ChatBackend(Protocol):
    """Answers OpenAI chat and text completions on an engine."""

    async def check(self, body: Mapping[str, Any]) -> ChatParameters:
        """Check a request whose thinking comes first, so that it is refused before the thinking.

        Args:
            body: As for `complete`.

        Returns:
            The parameters of the request.

        Raises:
            Invalid: The request does not have OpenAI's form.
            BackendRefused: The engine refuses the request.
        """
        ...

    async def complete(
        self,
        body: Mapping[str, Any],
        adapter: AdapterRef | None,
        prompt: RenderedPrompt | None = None,
        *,
        count: Callable[[int], None],
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Answer one chat completion.

        Args:
            body: Request in OpenAI's form, with the engine's extensions. Its `model` is only the name in the answer.
            adapter: A loaded adapter; None answers with the base model.
            prompt: What the answer continues. None renders the messages of `body`.
            count: Gets the number of tokens that were written, each time that there are more. They add up to what
                `usage` says of a whole answer; of one that ends early they are those until then.

        Returns:
            The whole answer, or the lines of an event stream if `body` sets `stream`.

        Raises:
            Invalid: The request does not have OpenAI's form.
            BackendRefused: The engine refuses the request.
        """
        ...

    async def complete_text(
        self, body: Mapping[str, Any], adapter: AdapterRef | None, *, count: Callable[[int], None]
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Continue raw prompts: texts or token ids, without a chat template.

        Args:
            body: Request in OpenAI's form of text completions. Its `model` is ignored.
            adapter: A loaded adapter; None answers with the base model.
            count: As for `complete`.

        Returns:
            The whole answer, or the lines of an event stream if `body` sets `stream`.

        Raises:
            Invalid: The request does not have OpenAI's form.
            BackendRefused: The engine refuses the request.
        """
        ...


class Engine(Protocol):
    """An inference engine with LoRA adapters.

    Attributes:
        ready: True between the end of `start` and the first of `stop` and the engine's death.
        dead: Set when the engine died.
        unsupported_fields: Fields of a chat request that the engine cannot serve, each with the message for the caller.
        ignored_adapter_options: Those of PEFT's `rank_pattern` and `alpha_pattern` that the engine ignores.
    """

    ready: bool
    dead: asyncio.Event
    unsupported_fields: Mapping[str, str]
    ignored_adapter_options: frozenset[str]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the base model. Raises EngineDied before `start`."""
        ...

    async def start(self, progress: Callable[[str], None]) -> None:
        """Load the model and warm up.

        Args:
            progress: Called with the name of each phase.

        Raises:
            Exception: Whatever stops the start.
        """
        ...

    async def stop(self) -> None:
        """Shut the engine down. An engine is started and stopped once."""
        ...

    def info(self) -> EngineInfo:
        """Return the facts about the running engine.

        Raises:
            EngineDied: The engine has not started.
        """
        ...

    def stats(self) -> EngineStats:
        """Return the engine's state after its last step."""
        ...

    async def chat_backend(self) -> ChatBackend | None:
        """Create the backend of the chat routes; None if the engine cannot chat. Call it after `start`."""
        ...

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        """Generate one sequence. Cancelling the task aborts it in the engine.

        Args:
            prompt_ids: Token ids of the prompt.
            sampling: Sampling parameters.
            adapter: A loaded adapter; None generates with the base model.
            priority: Scheduling priority.

        Raises:
            EngineDied: The engine process is gone.
            PromptTooLong: Prompt and output exceed the model's length.
        """
        ...

    def stream(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> AsyncGenerator[GenerationOutput]:
        """Generate one sequence, and yield all of it each time that it has grown. The last one is finished.

        Closing the generator aborts the sequence in the engine. Its errors are those of `generate`.

        Args:
            prompt_ids: Token ids of the prompt.
            sampling: Parameters of the sampling.
            adapter: A loaded adapter; None generates with the base model.
            priority: Scheduling priority.
        """
        ...

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        """Score tokens as the next token.

        Args:
            prompt_ids: Token ids of the prompt.
            token_ids: The tokens to score.
            adapter: A loaded adapter; None scores with the base model.
            priority: Scheduling priority.

        Returns:
            log p(token | prompt) for each of `token_ids`, over the whole vocabulary, at temperature 1.

        Raises:
            EngineDied: The engine process is gone.
            PromptTooLong: The prompt exceeds the model's length.
        """
        ...

    async def layer_shapes(self, layers: Sequence[str]) -> Shapes:
        """Return the shapes of the weights of linear layers that adapters can change, by `<layer>.weight`.

        Args:
            layers: Names of layers as adapters give them. Those that the model lacks are left out.
        """
        ...

    async def load(self, adapter: AdapterRef) -> None:
        """Load an adapter into the engine, with all its layers.

        Raises:
            EngineDied: The engine process is gone.
            ValueError: The engine refuses the files.
        """
        ...

    async def unload(self, adapter: AdapterRef) -> None:
        """Remove an adapter from the engine. An adapter that is not loaded is ignored."""
        ...
