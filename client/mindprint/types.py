"""The wire types: what goes over HTTP between application, server and trainer.

Requests refuse unknown fields (a misspelt setting must not pass for a default);
replies ignore them, so that a client survives a newer server.
Times are UTC, log-probabilities natural, lengths in tokens of the base model.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

Mode = Literal["direct", "generic", "personal"]
AskedMode = Literal["direct", "generic", "personal", "auto"]
"""What a query may ask for: `auto` is `personal` where the user's evidence says that thinking pays, else `direct`."""
QueryKind = Literal["closed", "open"]
"""`closed`: with choices."""
RouteReason = Literal["pays", "not_shown", "too_few", "cohort", "nobody", "other_user"]
TraceState = Literal["waiting", "leased", "trained", "dead", "kept"]
"""Where an accepted trace stands in the queue; `kept` = rejected or not judged, never trained on."""
BatchState = Literal["queued", "running", "done", "failed", "cancelled"]
LeaseState = Literal["active", "released", "completed", "expired"]
VersionState = Literal["live", "candidate", "standby", "refused"]
"""`candidate`: answers a share of the requests before it is live."""
Verdict = Literal["accepted", "rejected", "unjudged"]

EVERYONE = "everyone"
"""The cohort that is always there."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
"""A user's or cohort's id. It becomes a folder name, so it holds no slash and no `..`."""
EngagementId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
AdapterKey = Annotated[
    str, StringConstraints(pattern=r"^(user|cohort)/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$", max_length=72)
]
ModelName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(base|(user|cohort)/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*(@[1-9][0-9]{0,8})?)$", max_length=84
    ),
]
"""`base`, `user/<id>`, `cohort/<name>`, the latter two optionally `@<version>`."""
MemoryName = Annotated[
    str, StringConstraints(pattern=r"^(own|none|user/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)$", max_length=69)
]
"""Whose memory a prompt shows: the user's `own`, `none`, or that of `user/<id>`."""
NO_NUL = r"^[^\x00]*$"
"""No database column takes a NUL character."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=65_536, pattern=NO_NUL)]
Choice = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=NO_NUL)]
Choices = Annotated[list[Choice], Field(min_length=2, max_length=64)]
ScoreName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


def as_utc(when: datetime) -> datetime:
    """A time without a zone is taken as UTC, so that histories order the same on every machine."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


Time = Annotated[datetime, AfterValidator(as_utc)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reply(BaseModel):
    model_config = ConfigDict(extra="ignore")


# --- errors -----------------------------------------------------------------


class ErrorBody(Reply):
    message: str
    type: str
    code: str
    param: str | None = None


class ErrorReply(Reply):
    """OpenAI's error envelope; `code` is what programs switch on."""

    error: ErrorBody


# --- users and their engagements ---------------------------------------------


class Engagement(Request):
    """One past event of a user. Ids are unique per user; the same id with other content is refused (409)."""

    id: EngagementId
    prompt: Text
    response: Text
    occurred_at: Time
    reason: Annotated[str, StringConstraints(max_length=16_384, pattern=NO_NUL)] | None = None
    choices: Choices | None = None

    @model_validator(mode="after")
    def _response_is_a_choice(self) -> Self:
        if self.choices is not None:
            if len(set(self.choices)) != len(self.choices):
                raise ValueError("choices repeat: send each choice once")
            if self.response not in self.choices:
                raise ValueError(
                    f"response {self.response!r} is not among the choices {self.choices}: add it to choices"
                )
        return self


class EngagementBatch(Request):
    """Creates the user if need be. All are stored, or none."""

    engagements: Annotated[list[Engagement], Field(min_length=1, max_length=1000)]


class Ingested(Reply):
    created: int
    unchanged: int


class User(Reply):
    id: str
    created_at: Time
    engagements: int
    cohort: str = EVERYONE
    """Whose adapter answers while the user has none of their own."""
    profile_version: int | None = None
    live_version: int | None = None


class Profile(Reply):
    """Semantic memory: what the base model wrote about a user from the engagements up to `covers_until`."""

    user_id: str
    version: int
    text: str
    tokens: int
    covers: int
    covers_until: Time
    prompt_version: str
    base_digest: str
    created_at: Time


# --- traces ------------------------------------------------------------------


class Provenance(Reply):
    """What made a trace or an answer (invariant 6)."""

    model: str
    """`base`, a version such as `user/anna@2`, or `given` where somebody brought the thinking."""
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
    route: str | None = None
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
    model: ModelName = "base"
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_thinking_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    opening: Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)] | None = None
    """Replaces the model's opening of this mode; an empty one measures thinking from the bare `<think>`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    memory: MemoryName = "own"
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
        writing = ("opening", "max_thinking_tokens", "temperature", "seed")
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
    verdict: Verdict
    reason: str | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """Such as `target_logprob`, nats of the real answer (of a long open one its beginning), and `target_tokens`, how
    many tokens that is of."""
    state: TraceState = "kept"
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


class GivenTrace(Request):
    """Thinking about a stored engagement that somebody brings: curated, or written elsewhere."""

    engagement_id: EngagementId
    thinking: Text
    saw_answer: bool = False
    """Whether its writer was shown the answer."""
    scores: Annotated[dict[ScoreName, FiniteFloat], Field(max_length=32)] = Field(default_factory=dict)


class GivenTraces(Request):
    """All wait for a trainer as accepted, or none. One that says what an accepted one of its engagement says changes
    nothing."""

    traces: Annotated[list[GivenTrace], Field(min_length=1, max_length=1000)]


class TracePage(Reply):
    traces: list[Trace]
    next: str | None = None


# --- mode auto -----------------------------------------------------------------


class Route(Reply):
    """The mode that `auto` takes for one kind of a user's queries, and what it goes by.

    A gain is the log-probability of the real answer after thinking, less that of the same answer given at once.
    """

    mode: Mode
    reason: RouteReason
    """`pays`, or what keeps it `direct`: not shown to pay, too few questions, a cohort's version answers, nobody is
    asked about, or the version is another user's."""
    why: str
    """The same in words."""
    items: int = 0
    """Questions of the user's whose gain is known."""
    mean: float | None = None
    """Their mean gain."""
    low: float | None = None
    """Below which the true mean lies only by chance: Student's one-sided bound. None of fewer than two questions."""
    unit: Literal["nats", "nats a token"] | None = None
    """Of `mean` and `low`: in all, or a token of the answer."""


class Routes(Reply):
    """What `auto` makes of a user's queries while `model` answers them."""

    user_id: str
    model: str
    """`base`, or a version."""
    closed: Route
    open: Route


# --- batches -----------------------------------------------------------------


class BatchRequest(Request):
    """Write traces for every engagement of these users (all users if none is named) that has no accepted one yet."""

    users: Annotated[list[Name], Field(min_length=1, max_length=10_000)] | None = None
    mode: Mode = "personal"
    candidates: Annotated[int, Field(ge=1, le=64)] | None = None
    draw: Annotated[int, Field(ge=1, le=64)] | None = None
    blind: Annotated[int, Field(ge=0, le=64)] | None = None
    """Candidates of an engagement that are written before the writer is shown the answer; 0 shows it from the first one
    on."""
    hints: bool | None = None
    """Whether the writer is ever shown the answer."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_thinking_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _shown_or_blind(self) -> Self:
        if self.blind == 0 and (self.hints is False or self.mode != "personal"):
            raise ValueError("blind=0 shows the writer the answer: that takes hints, and mode personal")
        return self


class Funnel(Reply):
    """Engagements attempted; candidates generated, rejected by reason, accepted, trained, in a live version."""

    attempted: int = 0
    generated: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    accepted: int = 0
    trained: int = 0
    live: int = 0


class Batch(Reply):
    id: str
    state: BatchState
    request: BatchRequest
    items: int
    done: int
    skipped: dict[str, int] = Field(default_factory=dict)
    """Items that could not be attempted, by reason."""
    funnel: Funnel
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    truncated: int = 0
    """Engagements whose memory was cut to fit the model: the oldest parts went first."""
    hinted: int = 0
    """Accepted traces whose writer saw the answer."""
    tokens_per_second: float = 0.0
    """Generated tokens over the seconds that the batch was running."""
    error: str | None = None
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None


class BatchPage(Reply):
    batches: list[Batch]


# --- leases: how a trainer takes traces ----------------------------------------


class LeaseRequest(Request):
    """Claim the accepted traces of one adapter (of the neediest one if none is named)."""

    owner: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    adapter: AdapterKey | None = None
    """A cohort that is named needs `min_traces` alone; one that is not, the server's `cohort_min_traces` as well."""
    ttl_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    min_traces: Annotated[int, Field(ge=1, le=10_000)] = 1
    max_traces: Annotated[int, Field(ge=1, le=10_000)] = 1024


class Sample(Reply):
    """One training sequence: `prompt` (no loss) + `thinking` + `answer` + the tokenizer's end-of-turn token.

    `slow`: a `personal` prompt to thinking and answer. `fast`: a `direct` prompt to the answer, thinking empty.
    `replay`: a general question without any user's memory, to generic thinking and answer of the base model.
    The three texts are tokenized one by one, without special tokens, and their ids concatenated.
    """

    kind: Literal["slow", "fast", "replay"]
    user_id: str | None = None
    """Whose sample it is; None for replay."""
    engagement_id: str
    trace_id: str | None = None
    prompt: str
    thinking: str = ""
    answer: str


class LoraLimits(Reply):
    """What the serving engine can load; an adapter outside it is refused at upload."""

    max_rank: int
    target_modules: list[str]


class Start(Reply):
    """The version whose weights a training begins with."""

    adapter: str
    version: int
    digest: str


class Lease(Reply):
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
    ttl_s: Annotated[float, Field(gt=0, le=3600)] = 60.0


# --- adapters ------------------------------------------------------------------


class CanaryItem(Request):
    """The trainer's own log-probabilities, which the engine must reproduce with the adapter (invariant 5).

    `logprobs[i]` = log p(target_ids[i] | prompt_ids + target_ids[:i]) with the adapter, `base_logprobs` without.
    """

    prompt_ids: Annotated[list[int], Field(min_length=1, max_length=8192)]
    target_ids: Annotated[list[int], Field(min_length=1, max_length=64)]
    logprobs: list[float]
    base_logprobs: list[float]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if not len(self.target_ids) == len(self.logprobs) == len(self.base_logprobs):
            raise ValueError("target_ids, logprobs and base_logprobs differ in length")
        return self


class Manifest(Request):
    """What the trainer says of a version it uploads."""

    adapter: AdapterKey
    base_digest: str
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    trace_ids: list[str]
    samples: dict[str, int]
    settings: dict[str, Any]
    losses: dict[str, float]
    tokens: int
    seconds: float
    trainer: str
    canary: Annotated[list[CanaryItem], Field(min_length=1, max_length=32)]


class CanaryResult(Reply):
    """Mean absolute differences in nats a token: engine with adapter against trainer, and against the base."""

    passed: bool
    against_trainer: float
    against_base: float
    tokens: int
    reason: str | None = None


class Check(Reply):
    """One thing that the gate looked at. `passed` is None where it could not be looked at; `detail` says why."""

    name: str
    value: float | None = None
    bound: float | None = None
    passed: bool | None = None
    detail: str = ""
    items: int | None = None
    """How many figures `value` is the mean of, where `mode: auto` goes by it."""
    deviation: float | None = None
    """Their standard deviation; None of a single one."""


class Version(Reply):
    adapter: str
    version: int
    state: VersionState
    digest: str
    base_digest: str
    parent: int | None = None
    """The version of the same adapter that was live when training began."""
    start: str | None = None
    """The version whose weights training began with, such as `cohort/everyone@3`."""
    traces: int
    canary: CanaryResult | None = None
    checks: list[Check] = Field(default_factory=list)
    """What the gate found, and later what took the version out of service."""
    pinned: bool = False
    files: bool = True
    """False once retention has removed the files: such a version can no longer answer."""
    manifest: Manifest
    created_at: Time


class Adapter(Reply):
    key: str
    live: int | None
    candidate: int | None = None
    share: float | None = None
    """Share of the adapter's requests that the candidate answers."""
    versions: list[Version]


class AdapterPage(Reply):
    adapters: list[Adapter]


class Promote(Request):
    """Which version the adapter's key resolves to; `null` takes the adapter off (the base answers)."""

    version: Annotated[int, Field(ge=1, lt=2**31)] | None


class Release(Request):
    """Lets a version answer a share of its adapter's requests; `null` ends that."""

    version: Annotated[int, Field(ge=1, lt=2**31)] | None
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Pin(Request):
    """A pinned version keeps its files and, once loaded, its place in the engine."""

    pinned: bool


class LearnedFrom(Reply):
    """A trace that a version was trained on."""

    trace_id: str
    user_id: str
    engagement_id: str
    saw_answer: bool
    scores: dict[str, float]


class Lineage(Reply):
    """Why a version is as it is."""

    version: Version
    traces: list[LearnedFrom]
    fast: dict[str, list[str]]
    """Engagements by user that it also learned to answer directly."""
    held_out: dict[str, list[str]]
    """Engagements by user that the gate examined it on."""
    ancestors: list[str]
    """The versions it began with, nearest first."""


# --- cohorts ----------------------------------------------------------------------


class Cohort(Reply):
    """Users whose traces train one adapter, `cohort/<name>`. `everyone` holds all who are in no other."""

    name: str
    description: str
    users: int
    live: int | None = None
    created_at: Time


class CohortPage(Reply):
    cohorts: list[Cohort]


class CohortEdit(Request):
    """Creates or describes a cohort."""

    description: Annotated[str, StringConstraints(max_length=1024, pattern=NO_NUL)] = ""


class Members(Request):
    """Users who move into a cohort, from whichever they were in."""

    users: Annotated[list[Name], Field(min_length=1, max_length=10_000)]


# --- the server itself -----------------------------------------------------------


class ServerInfo(Reply):
    """`GET /v1/info`: what a trainer must match and a person wants to know."""

    mindprint: str
    engine: str
    device: str
    model: str
    model_path: str
    base_digest: str
    prompt_version: str
    max_model_len: int
    limits: LoraLimits
