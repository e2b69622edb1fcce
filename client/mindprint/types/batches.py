"""Batches: durable jobs that write traces for many engagements."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from mindprint.types.auto_mode import Mode
from mindprint.types.base import NO_COERCION, NO_NUL, Flag, Reply, Request, Time
from mindprint.types.keys import Name

BatchState = Literal["queued", "running", "done", "failed", "cancelled"]
OPENAI_FIELDS = frozenset({"input_file_id", "endpoint", "completion_window"})
"""Fields of a batch of OpenAI's, whose path is the same."""


class BatchRequest(Request):
    """Write traces for all engagements of these users that have no accepted one. Without `users`: of all users."""

    users: Annotated[list[Name], Field(min_length=1, max_length=10_000)] | None = None
    mode: Mode = "personal"
    candidates: Annotated[int, Field(ge=1, le=64), NO_COERCION] | None = None
    candidates_per_round: Annotated[int, Field(ge=1, le=64), NO_COERCION] | None = None
    unhinted: Annotated[int, Field(ge=0, le=64), NO_COERCION] | None = None
    """Candidates of an engagement that are written before the prompt shows the real answer. 0 shows the
    answer from the first one on."""
    hints: Flag | None = None
    """Whether the prompt of later candidates may show the real answer."""
    exhaustive: Flag | None = None
    """Whether candidates are written for every engagement until one is accepted or `candidates` is reached. None is
    skipped or stopped early as unlikely. Use it for users with few engagements, where every trace counts."""
    temperature: Annotated[float, Field(ge=0, le=2), NO_COERCION] | None = None
    max_thinking_tokens: Annotated[int, Field(ge=1, le=8192), NO_COERCION] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31), NO_COERCION] = 0
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_openais(cls, values: Any) -> Any:
        if isinstance(values, dict) and not OPENAI_FIELDS.isdisjoint(values):
            raise ValueError(
                "this is Mindprint's batch of traces, not OpenAI's Batch API: send users and mode, or each request "
                "by itself to /v1/chat/completions"
            )
        return values

    @model_validator(mode="after")
    def _shown_or_unhinted(self) -> Self:
        if self.unhinted == 0 and (self.hints is False or self.mode != "personal"):
            raise ValueError("unhinted=0 shows the writer the answer: use it with hints and with mode personal only")
        return self


class Funnel(Reply):
    """Counts: engagements attempted; candidates generated, rejected by reason, accepted, trained, in a live version."""

    attempted: int = 0
    generated: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    accepted: int = 0
    trained: int = 0
    live: int = 0


class Batch(Reply):
    """A batch with its progress and its counts."""

    id: str
    state: BatchState
    request: BatchRequest
    items: int
    done: int
    skipped: dict[str, int] = Field(default_factory=dict)
    """Engagements that were skipped, by skip reason."""
    funnel: Funnel
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    truncated: int = 0
    """Engagements whose memory was cut to fit the model. The oldest parts are cut first."""
    hinted: int = 0
    """Accepted traces whose prompt showed the real answer."""
    tokens_per_second: float = 0.0
    """Generated tokens divided by the seconds in which the batch ran. Those of several servers add up, so this is the
    speed of one."""
    waiting_for: str | None = None
    """Why no further engagement of the batch is started for now, such as a quota that is used up. It goes on by itself;
    None while it does not wait."""
    error: str | None = None
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None
