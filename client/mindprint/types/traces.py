"""Traces: the request for a single one, and traces as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from mindprint.types.auto_mode import AskedMode, Mode
from mindprint.types.base import NO_COERCION, NO_NUL, Choices, EngagementId, Flag, Reply, Request, Text, Time
from mindprint.types.keys import MemoryNameStr, ModelNameStr, Name

TraceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
TraceState = Literal["waiting", "leased", "trained", "dead_letter", "stored"]
"""State in the training queue. `waiting`, `leased` and `trained` are accepted traces. `dead_letter`: its leases ended
badly too often. `stored`: never in the queue, because the trace was rejected or is not meant for training."""
VerdictLabel = Literal["accepted", "rejected", "unjudged"]
Reason = Literal[
    "parse", "empty", "loop", "leak", "duplicate", "wrong_answer", "low_gain", "low_anchor", "hindsight", "not_selected"
]
"""Why a candidate was rejected. `not_selected`: an imported trace that its sender marked as no example to learn."""
ReasonGroup = Literal["collapse", "text", "answer", "score", "import"]
"""What was wrong. `collapse`: the thinking loops or is empty. `text`: its words. `answer`: it leads to a wrong answer.
`score`: it leads to the real answer, but a score is too low or too high. `import`: its sender did not select it."""
REASON_GROUPS: Mapping[str, ReasonGroup] = {
    "parse": "text",
    "empty": "collapse",
    "loop": "collapse",
    "leak": "text",
    "duplicate": "text",
    "wrong_answer": "answer",
    "low_gain": "score",
    "low_anchor": "score",
    "hindsight": "score",
    "not_selected": "import",
}
"""The group of every reason."""
SCORE_REASONS: tuple[str, ...] = tuple(
    reason for reason, group in REASON_GROUPS.items() if group in ("answer", "score", "import")
)
"""Reasons of traces whose thinking is sound as a text; only its answer, a score or the selection is not."""
CORRECT_ANSWER_REASONS: tuple[str, ...] = tuple(reason for reason, group in REASON_GROUPS.items() if group == "score")
"""Reasons of traces whose thinking leads to the real answer, but has a bad score."""


class Provenance(Reply):
    """What made a trace or an answer."""

    model: str
    """Writer of the thinking: `base`, a version such as `user/anna@2`, or `imported`."""
    adapter_digest: str | None
    base_digest: str
    prompt_version: str
    mode: Mode
    sampling: dict[str, Any]
    seed: int | None
    engine: str
    saw_answer: bool = False
    memory_dropped: int = 0
    """Number of parts of the memory that were left out to fit the model. The oldest are left out first."""
    profile_version: int | None = None
    mode_reason: str | None = None
    """Why `auto` chose this mode, in words; None if the caller named the mode."""


class TraceRequest(Request):
    """Write one trace now. A trace about a stored engagement is judged and stored, one about a query only returned."""

    user_id: Name
    engagement_id: EngagementId | None = None
    query: Text | None = None
    choices: Choices | None = None
    target: Text | None = None
    asked_at: Time | None = None
    mode: AskedMode = "personal"
    """Mode of the thinking. `auto` needs a query and the user's own memory."""
    model: ModelNameStr = "base"
    temperature: Annotated[float, Field(ge=0, le=2), NO_COERCION] | None = None
    max_thinking_tokens: Annotated[int, Field(ge=1, le=8192), NO_COERCION] | None = None
    thinking_prefix: Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)] | None = None
    """Replaces the server's thinking prefix of this mode. With an empty one thinking starts from the bare `<think>`."""
    seed: Annotated[int, Field(ge=0, lt=2**31), NO_COERCION] | None = None
    memory: MemoryNameStr = "own"
    """Whose memory the prompt shows, as of `asked_at`: the user's `own`, `none`, or that of `user/<id>`.

    With `user/<id>` the answer may reveal the history of another user. It is meant for evaluation, and
    needs a key with the scope `admin`.
    """
    thinking: Annotated[str, StringConstraints(max_length=65_536, pattern=NO_NUL)] | None = None
    """Thinking to use instead of generated thinking. It may be empty. Special tokens and tags in it are removed."""
    show_choices: Flag = True
    """Whether the prompt lists the choices. They are scored in any case. A small model answers by their place in the
    list."""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.engagement_id is None) == (self.query is None):
            raise ValueError("send either engagement_id or query")
        if self.engagement_id is not None and (self.choices or self.target or self.asked_at):
            raise ValueError("choices, target and asked_at come with query; an engagement brings its own")
        controlled = self.memory != "own" or self.thinking is not None or not self.show_choices
        if self.engagement_id is not None and controlled:
            raise ValueError(
                "memory, thinking and show_choices come with query: ask the engagement's prompt as a query"
            )
        if self.engagement_id is not None and self.mode == "auto":
            raise ValueError("mode auto comes with query: name the mode in which the engagement is thought about")
        if self.choices is not None and self.target is not None and self.target not in self.choices:
            raise ValueError("target is not among the choices: add it to choices")
        return self

    @model_validator(mode="after")
    def _chosen_or_controlled(self) -> Self:
        if self.mode == "auto" and (self.memory != "own" or self.thinking is not None):
            raise ValueError("mode auto needs the user's own memory and generated thinking: name another mode")
        return self

    @model_validator(mode="after")
    def _given_or_written(self) -> Self:
        if self.thinking is None:
            return self
        if self.mode == "direct":
            raise ValueError("mode direct has no thinking: leave thinking out, or choose generic or personal")
        writing = ("thinking_prefix", "max_thinking_tokens", "temperature", "seed")
        if wanted := [name for name in writing if getattr(self, name) is not None]:
            raise ValueError(f"thinking is given, so none is generated: leave out {' and '.join(wanted)}")
        return self


class Requeue(Request):
    """Put dead letters back into the queue: those of these ids, those of a user, or without both all there are."""

    trace_ids: Annotated[list[TraceId], Field(min_length=1, max_length=1000)] | None = None
    user_id: Name | None = None

    @model_validator(mode="after")
    def _one_filter(self) -> Self:
        if self.trace_ids is not None and self.user_id is not None:
            raise ValueError("send either trace_ids or user_id, or neither for all dead letters")
        return self


class Requeued(Reply):
    """How many dead letters were put back. Traces in another state, and ids that are unknown, are left as they are."""

    requeued: int


class Trace(Reply):
    """One written candidate and what became of it."""

    id: str
    user_id: str
    engagement_id: str | None = None
    batch_id: str | None = None
    mode: Mode
    query: str
    prompt: str = ""
    """The rendered prompt without a hint, up to the start of the assistant's turn."""
    thinking: str
    answer: str
    choice_logprobs: dict[str, float] | None = None
    """Log-probability of each choice, normalized over the choices."""
    verdict: VerdictLabel
    reason: str | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """Scores by name, such as `target_logprob`: log-probability of the real answer in nats (of a long open answer only
    its beginning), and `target_tokens`: the number of tokens that it sums over."""
    state: TraceState = "stored"
    version: int | None = None
    """The version of the user's own adapter that was trained on the trace."""
    versions: list[str] = Field(default_factory=list)
    """All versions that were trained on the trace, such as `user/anna@2` and `cohort/everyone@1`; refused ones too."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    finish: str = ""
    provenance: Provenance
    created_at: Time
