"""Leases: how a trainer takes traces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from mindprint.types.base import Reply, Request, Time
from mindprint.types.keys import AdapterKeyStr
from mindprint.types.server import LoraLimits

LeaseState = Literal["active", "released", "completed", "expired"]


class LeaseRequest(Request):
    """Claim the accepted traces of one adapter (of the neediest one if none is named)."""

    owner: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    adapter: AdapterKeyStr | None = None
    """A cohort that is named needs `min_traces` alone; one that is not, the server's `cohort_min_traces` as well."""
    ttl_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    min_traces: Annotated[int, Field(ge=1, le=10_000)] = 1
    max_traces: Annotated[int, Field(ge=1, le=10_000)] = 1024


class Sample(Reply):
    """One training sequence.

    Its parts are `prompt` (no loss), `thinking_prefix`, `reminder` (no loss), `thinking`, `thinking_suffix`, `answer`
    and the
    tokenizer's end-of-turn token. They are tokenized one by one, without special tokens, and their ids concatenated.

    `slow`: a `personal` prompt to thinking and answer. `fast`: a `direct` prompt to the answer, thinking empty.
    `replay`: a general question without any user's memory, to generic thinking and answer of the base model.
    """

    kind: Literal["slow", "fast", "replay"]
    user_id: str | None = None
    """Whose sample it is; None for replay."""
    engagement_id: str
    trace_id: str | None = None
    prompt: str
    """Up to where something is to be learned: for thinking, with the `<think>` that the server always writes."""
    thinking_prefix: str = ""
    """How the thinking begins: a part of its own, or its few words would drown among the rest."""
    reminder: str = ""
    """What the server wrote behind the thinking prefix, of cases that the prompt does not show: nobody could learn
    to."""
    thinking: str = ""
    thinking_suffix: str = ""
    """The end of thinking and all that stands before the answer: of its own as well, or thinking goes on and on."""
    answer: str
    """Empty: nothing is learned behind the thinking and its closing."""
    choices: list[str] = Field(default_factory=list)
    """What may be answered, written as `answer` is; empty where anything may be."""


class Start(Reply):
    """The version whose weights a training begins with."""

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
    """Only in the reply to the claim."""
    base_digest: str
    parent: int | None = None
    """The live version when the lease was claimed."""
    start: Start | None = None
    """What to begin with: the adapter's own live version, else its cohort's; None is a fresh adapter."""
    held_out: dict[str, list[str]] = Field(default_factory=dict)
    """Engagements by user, the newest, that no sample is of: the gate examines the version on them."""
    limits: LoraLimits
    version: int | None = None
    """Set once the lease is completed."""


class Heartbeat(Request):
    """Extends a lease: it then lasts `ttl_s` seconds from now."""

    ttl_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
