"""Settings of generation: prefixes, sampling, candidates, and how batches are scheduled."""

from __future__ import annotations

from pydantic import BaseModel, Field

from mindprint.thinking_text import ANSWER_PREFIX, THINKING_PREFIXES


class GenerationSettings(BaseModel):
    """Generation: how thinking and answers are written, how many candidates there are, how batches are scheduled."""

    thinking_prefixes: dict[str, str] = Field(default_factory=lambda: dict(THINKING_PREFIXES))
    """First words of the thinking for each thinking mode, after `<think>`. Empty for models trained to reason."""
    max_thinking_tokens: int = Field(64, ge=1)
    """Maximum number of tokens of thinking. The server closes longer thinking there, and the answer follows."""
    max_answer_tokens: int = Field(64, ge=1)
    """Maximum number of tokens of the answer that follows the thinking of a trace."""
    min_answer_tokens: int = Field(16, ge=1)
    """Minimum number of tokens of `max_model_len` that the thinking of a chat leaves for the answer. Thinking gets
    shorter where messages and memory leave less than `max_thinking_tokens` beside it. Where not even one token of
    thinking fits, the chat is refused with 400 before it thinks. The default is a short sentence."""
    answer_prefix: str = ANSWER_PREFIX
    """Words between the end of the thinking and the answer, the same as in the memory's lines. Without them a small
    model often gives the same answer, whatever it thought. Empty for models trained to reason. Default: decision
    004."""
    temperature: float = Field(0.7, ge=0, le=2)
    """Sampling temperature of thinking. 0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the likeliest tokens that make up this probability. Below 1, each token sorts the vocabulary, which
    costs 40 % of the speed on a CPU. Default: decision 004."""
    min_p: float = Field(0.05, ge=0, le=1)
    """Sample only tokens that have at least this share of the likeliest token's probability."""

    candidates: int = Field(3, ge=1, le=64)
    """Maximum number of candidates of one engagement."""
    unhinted_candidates: int = Field(2, ge=1, le=64)
    """Number of candidates that are written without the real answer in the prompt. The others follow with it."""
    hints: bool = True
    """Show the real answer in the prompt once the unhinted candidates were rejected. Such traces are marked `hinted`.
    With `false`, all candidates are unhinted."""
    candidates_per_round: int = Field(1, ge=1, le=64)
    """Number of candidates generated at once. The next round follows only if none was accepted."""
    cancel_siblings_on_accept: bool = True
    """Stop the other candidates of a round in the engine when one was accepted."""
    early_stop_margin_nats: float | None = Field(0.5, ge=0)
    """Stop generating for an engagement when even its best candidate ranks the real answer more than this many nats
    below the likeliest choice. `null` disables it. Default: decision 006."""
    early_stop_score_margin: float | None = Field(0.2, ge=0)
    """Stop generating for an engagement when Gain or Anchor of even its best candidate is more than this many nats a
    token below its bound. `null` disables it. Default: decision 006."""
    min_answer_frequency: float = Field(0.25, ge=0, le=1)
    """Minimum answer frequency of a closed engagement: how often the user gave its real answer before, 0 to 1. Below
    it, the engagement is skipped as `rare_answer`. Only past engagements with the same choices count. The frequency is
    the mean of two shares: that among the engagements in the prompt, and that among the newest `recall_from`. It
    applies with `accept_by=answer` only. 0 skips nothing. Default: decision 006."""
    prefilter_by_prior: bool = True
    """Score the answer after the thinking prefix alone, before anything is written. An engagement whose real answer is
    more than `early_stop_margin_nats` below the likeliest choice is skipped as `prior_too_low`."""
    exhaustive: bool = False
    """Write candidates for every engagement until one is accepted or `candidates` is reached. None is skipped or
    stopped early as unlikely: `early_stop_margin_nats`, `early_stop_score_margin`, `min_answer_frequency` and
    `prefilter_by_prior` have no effect. It is slower and finds more traces, which helps users with few engagements. A
    batch may ask for it too. Default: decision 006."""

    batch_max_in_flight: int = Field(128, ge=1)
    """Maximum number of engagements of batches in progress at once. The engine's load may allow fewer."""
    batch_per_user: int = Field(16, ge=1)
    """Maximum number of engagements of one user in progress at once."""
    batch_max_starvation_s: float = Field(30, gt=0)
    """Seconds after which a waiting user takes the place of the user who is active longest."""
    batch_chunk_per_user: int = Field(32, ge=1)
    """Number of engagements of one user that a batch plans in a row before those of the next user. Higher values share
    more of the prefix cache, lower ones start more users at once. Default: twice `batch_per_user`."""
    batch_claim_ahead: int = Field(128, ge=0)
    """Maximum number of engagements that a server claims ahead of those it works on. Too few leave the engine idle.
    Too many leave other servers on the same database without work. Default: decision 030."""
    batch_claim_ttl_s: float = Field(30, gt=0)
    """Seconds until a claim on engagements ends, unless the server extends it, which it does three times as often. The
    engagements of a server that died wait that long for another one. Default: decision 030."""
    batch_poll_interval_s: float = Field(1, gt=0)
    """Seconds between two looks at the open batches of the store. Within that time a server sees what another one did
    to a batch, if the database cannot tell it."""
    batch_listen: bool = True
    """On PostgreSQL, hear at once what other servers do to batches (`LISTEN`). It takes one more connection to the
    database. With `false`, or behind a pooler in transaction mode, the server sees it at its next look."""
    batch_spare: float = Field(0.25, ge=0, le=1)
    """Share of the engine's slots that the last engagements of a batch may fill with several candidates at once."""
    plan_interval_s: float = Field(0.1, gt=0)
    """Seconds between two measurements of the engine's load while a batch runs."""
    profiles_at_once: int = Field(8, ge=1)
    """Maximum number of users of a batch whose profiles are written at once."""
    watch_interval_s: float = Field(0.5, gt=0)
    """Minimum seconds between two progress events of a batch. The store is read once in one to two of these for each
    watched batch, however many watch it."""
    max_watchers: int = Field(500, ge=1)
    """Maximum number of callers that watch the progress of batches at once. Further ones are refused with 429. Each
    holds a connection, so it should be well below `max_connections`."""
    max_open_batches: int = Field(32, ge=1)
    """Maximum number of batches of a tenant that are queued or running. A further one is refused with 429.
    `max_open_batches_total` bounds those of all tenants."""
