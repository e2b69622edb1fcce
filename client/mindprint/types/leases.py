"""Leases: a trainer's timed claims on traces, and the training samples in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mindprint.types.base import NO_COERCION, NO_NUL, Reply, Request, Time
from mindprint.types.keys import AdapterKeyStr
from mindprint.types.server import LoraLimits

LeaseState = Literal["active", "released", "completed", "expired", "revoked"]


class LeaseRequest(Request):
    """Claim the accepted traces of one adapter."""

    owner: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL)]
    adapter: AdapterKeyStr | None = None
    """Key of the adapter; None takes the one with the most traces, cohorts before users. A cohort that is not named
    also needs the server's `cohort_min_traces`."""
    ttl_s: Annotated[float, Field(gt=0, le=3600), NO_COERCION] = 60.0
    min_traces: Annotated[int, Field(ge=1, le=10_000), NO_COERCION] = 1
    max_traces: Annotated[int, Field(ge=1, le=10_000), NO_COERCION] = 1024


class Sample(Reply):
    """One training sequence.

    Its parts are `prompt` (no loss), `thinking_prefix`, `reminder` (no loss), `thinking`, `thinking_suffix`, `answer`
    and the lease's end-of-turn token. They are tokenized in stretches, by the rule of `mindprint.token_stretches`: the
    prompt; thinking prefix and reminder; thinking and its suffix; the answer. So the token ids are those that are
    served.

    `slow`: a `personal` prompt to thinking and answer. `fast`: a `direct` prompt to the answer, thinking empty.
    `replay`: a general question without any user's memory, to generic thinking and answer of the base model.
    """

    kind: Literal["slow", "fast", "replay"]
    user_id: str | None = None
    """User whose engagement it is about; None for replay."""
    engagement_id: str
    trace_id: str | None = None
    prompt: str
    """The text before the thinking or the direct answer. Before a thinking it ends with the `<think>` that the server
    or the chat template always writes."""
    thinking_prefix: str = ""
    """The beginning of the thinking. It is a part of its own: the loss is a mean over each part, so that these few
    words are learned too."""
    reminder: str = ""
    """Past engagements that the server wrote after the thinking prefix. They have no loss: the prompt does not show
    them, so that a model cannot learn to write them."""
    thinking: str = ""
    thinking_suffix: str = ""
    """The text between the thinking and the answer, with the `</think>`. It is a part of its own too, so that the model
    learns to end its thinking."""
    answer: str
    """The answer. If it is empty, nothing after the thinking suffix is learned."""
    choices: list[str] = Field(default_factory=list)
    """All possible answers, each written as `answer` is; empty for an open question."""
    answer_only: bool = False
    """Whether the thinking is given, so that only the answer is learned."""


class Start(Reply):
    """The version whose weights a training starts from."""

    adapter: str
    version: int
    digest: str


class Lease(Reply):
    """A trainer's timed claim on the accepted traces of one adapter."""

    id: str
    adapter: str
    owner: str
    state: LeaseState
    deadline: Time
    attempt: int
    trace_ids: list[str]
    samples: list[Sample] = Field(default_factory=list)
    """The training samples; only the reply to a claim has them."""
    base_digest: str
    end_of_turn: int | None = None
    """Id of the token with which the engine's model ends a turn: what a training appends to answers."""
    parent: int | None = None
    """The live version when the lease was claimed."""
    start: Start | None = None
    """The version to start from: the adapter's own live version, else its cohort's. None: a new adapter."""
    held_out: dict[str, list[str]] = Field(default_factory=dict)
    """The newest engagements by user, which no sample is about. The gate evaluates the version on them."""
    limits: LoraLimits
    version: int | None = None
    """The version that was trained under the lease; set when the lease is completed."""
    revoked_by: str | None = None
    """Id of the erasure that revoked the lease."""


class Heartbeat(Request):
    """Extend a lease to `ttl_s` seconds from now."""

    ttl_s: Annotated[float, Field(gt=0, le=3600), NO_COERCION] = 60.0
