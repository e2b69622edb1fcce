"""Traces: asked for one by one, and as they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from mindprint.types.auto_mode import AskedMode, Mode
from mindprint.types.base import NO_NUL, Choices, EngagementId, Reply, Request, Text, Time
from mindprint.types.keys import MemoryNameStr, ModelNameStr, Name

TraceState = Literal["waiting", "leased", "trained", "dead_letter", "stored"]
"""Where an accepted trace stands in the queue; `stored` = rejected or not judged, never trained on."""
VerdictLabel = Literal["accepted", "rejected", "unjudged"]
Reason = Literal[
    "parse", "empty", "loop", "leak", "duplicate", "wrong_answer", "low_gain", "low_anchor", "hindsight", "not_selected"
]
"""Why a candidate was rejected. `not_selected`: somebody brought it and says that it is no lesson."""
ReasonGroup = Literal["collapse", "text", "answer", "score", "import"]
"""What a reason speaks against. `collapse`: the thinking loops or is empty. `text`: its words. `answer`: the answer it
leads to. `score`: a score of a thinking that leads to the real answer. `import`: the importer did not select it."""
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
"""Reasons that speak against what thinking leads to; nothing is wrong with the thinking as a text."""
CORRECT_ANSWER_REASONS: tuple[str, ...] = tuple(reason for reason, group in REASON_GROUPS.items() if group == "score")
"""Reasons that speak against a score of thinking that leads to the real answer."""


class Provenance(Reply):
    """What made a trace or an answer."""

    model: str
    """`base`, a version such as `user/anna@2`, or `imported` where somebody brought the thinking."""
    adapter_digest: str | None
    base_digest: str
    prompt_version: str
    mode: Mode
    sampling: dict[str, Any]
    seed: int | None
    engine: str
    saw_answer: bool = False
    memory_dropped: int = 0
    """Parts of the memory, oldest first, that were left out to fit the model."""
    profile_version: int | None = None
    mode_reason: str | None = None
    """Why this mode, in words, where `auto` was asked for."""


class TraceRequest(Request):
    """One trace now: about a stored engagement (stored and judged), or about a query (only returned)."""

    user_id: Name
    engagement_id: EngagementId | None = None
    query: Text | None = None
    choices: Choices | None = None
    target: Text | None = None
    asked_at: Time | None = None
    mode: AskedMode = "personal"
    """`auto` only of a query, put to the user's own memory."""
    model: ModelNameStr = "base"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_thinking_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    thinking_prefix: Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)] | None = None
    """Replaces the model's thinking prefix of this mode; an empty one measures thinking from the bare `<think>`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    memory: MemoryNameStr = "own"
    """Whose memory the prompt shows, as of `asked_at`, for controlled questions about a query.

    `user/<id>` shows another user's, so that a caller who may ask about one user reads of another: a tool for
    evaluation within one tenant. There are no tenants and no keys yet: whoever reaches the server may use it.
    """
    thinking: Annotated[str, StringConstraints(max_length=65_536, pattern=NO_NUL)] | None = None
    """Stands in the place of what would be written; the answer comes after it. It may be empty. What could end it, or
    the turn, is removed."""
    show_choices: bool = True
    """Whether the prompt lists the choices. They are scored in any case; a small model answers by the list it sees."""

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
            raise ValueError("mode auto goes by the user's own memory and thinking: name a mode with another one's")
        return self

    @model_validator(mode="after")
    def _given_or_written(self) -> Self:
        if self.thinking is None:
            return self
        if self.mode == "direct":
            raise ValueError("mode direct has no thinking: leave thinking out, or choose generic or personal")
        writing = ("thinking_prefix", "max_thinking_tokens", "temperature", "seed")
        if wanted := [name for name in writing if getattr(self, name) is not None]:
            raise ValueError(f"nothing is written where thinking is given: leave out {' and '.join(wanted)}")
        return self


class Trace(Reply):
    """One written candidate and what became of it."""

    id: str
    user_id: str
    engagement_id: str | None = None
    batch_id: str | None = None
    mode: Mode
    query: str
    prompt: str = ""
    """The rendered prompt that the writer read, up to where the assistant's turn begins."""
    thinking: str
    answer: str
    choice_logprobs: dict[str, float] | None = None
    """Log-probability of each choice, normalized over the choices."""
    verdict: VerdictLabel
    reason: str | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """Such as `target_logprob`, nats of the real answer (of a long open one its beginning), and `target_tokens`, how
    many tokens that is of."""
    state: TraceState = "stored"
    version: int | None = None
    """The version of the user's own adapter that was trained on it."""
    versions: list[str] = Field(default_factory=list)
    """Every version that was trained on it, such as `user/anna@2` and `cohort/everyone@1`; refused ones too."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    finish: str = ""
    provenance: Provenance
    created_at: Time
