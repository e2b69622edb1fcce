"""The manifest of an uploaded version, and the result of its parity check."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, StrictInt, StringConstraints, model_validator

from mindprint.types.base import Number, Reply, Request
from mindprint.types.keys import AdapterKeyStr


class ParityItem(Request):
    """A prompt and target tokens with the trainer's log-probabilities, which the engine must reproduce.

    `logprobs[i]` = log p(target_ids[i] | prompt_ids + target_ids[:i]) with the adapter, `base_logprobs` without it.
    """

    prompt_ids: Annotated[list[StrictInt], Field(min_length=1, max_length=8192)]
    target_ids: Annotated[list[StrictInt], Field(min_length=1, max_length=64)]
    logprobs: list[Number]
    base_logprobs: list[Number]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if not len(self.target_ids) == len(self.logprobs) == len(self.base_logprobs):
            raise ValueError("target_ids, logprobs and base_logprobs differ in length: send one value a target token")
        return self


class Manifest(Request):
    """What a trainer says about a version that it uploads."""

    adapter: AdapterKeyStr
    base_digest: str
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    trace_ids: list[str]
    samples: dict[str, StrictInt]
    settings: dict[str, Any]
    losses: dict[str, Number]
    tokens: StrictInt
    seconds: Number
    trainer: str
    parity_items: Annotated[list[ParityItem], Field(min_length=1, max_length=32)]


class ParityResult(Reply):
    """The result of a parity check: mean absolute differences of log-probabilities, in nats a token.

    `against_trainer` compares the engine with the adapter to the trainer, `against_base` to the engine without it.
    """

    passed: bool
    against_trainer: float
    against_base: float
    tokens: int
    reason: str | None = None
