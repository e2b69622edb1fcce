"""Settings of the queue: what waits for a trainer, and what a lease brings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class QueueSettings(BaseModel):
    """The queue: attempts, backlog, samples of a lease, held-out engagements, replay."""

    max_attempts: int = Field(3, ge=1)
    """Number of failed leases after which a trace is no longer trained on and becomes `dead_letter`. A lease fails if
    it expires or if its version is refused."""
    lease_grace_s: float = Field(15, ge=0)
    """Seconds after the start of a server during which it ends no lease that is past its deadline. Trainers that waited
    for the server send their heartbeats in this time. Default: half of a trainer's `ttl_s`; it sends three in that."""
    max_backlog: int = Field(10_000, ge=1)
    """Maximum number of accepted traces that wait for one adapter. Once so many wait, batches skip the user's
    engagements as `backlog_full`, and imports are refused with 429. Engagements in progress may exceed it."""
    cohort_min_traces: int = Field(64, ge=1)
    """Minimum number of new accepted traces with which a trainer trains a cohort's adapter, also that of `everyone`.
    For a trainer that names the cohort (`mindprint train --adapter cohort/<name>`) only its own `min_traces` counts."""
    max_fast_samples: int = Field(512, ge=0)
    """Maximum number of fast samples of a lease: the newest engagements, answered directly. For a cohort, of all users
    together."""
    max_lease_bytes: int = Field(32 * 1024 * 1024, ge=1024)
    """Maximum size of the texts in the samples of a lease, in bytes of UTF-8. Half is for accepted traces, oldest first
    and at least one: the others wait for the next lease. Other samples that do not fit are left out. The default is
    twice what 1,024 traces of the default model take at most."""
    answer_rejected: bool = True
    """Train the real answer after the first unhinted thinking about an engagement, also if that thinking was rejected
    for its answer or its scores. An accepted thinking that was written later then trains only the thinking, not the
    answer. It was selected because its answer was right, so an adapter would learn to be certain after any thinking.
    Default: decision 016."""
    start_from: Literal["parent", "cohort", "base"] = "parent"
    """Version from which a training starts. `parent`: the adapter's own live version, else that of the user's cohort,
    else that of `everyone`, else a fresh adapter. `cohort`: the same, but a user's adapter never starts from its own
    version. `base`: always a fresh adapter."""

    holdout_share: float = Field(0.1, ge=0, lt=1)
    """Share of a user's engagements, the newest, that are never trained on. The gate asks them. 0 holds out none."""
    holdout_min_engagements: int = Field(20, ge=1)
    """Minimum number of engagements of a user with which some are held out. With fewer, all are trained on."""
    holdout_max_engagements: int = Field(16, ge=1)
    """Maximum number of held-out engagements of one user."""

    replay_share: float = Field(0.1, ge=0, le=1)
    """Replay samples of a lease as a share of its other samples: generic thinking of the base model about general
    questions. 0 adds none."""
    replay_wait_s: float = Field(10, ge=0)
    """Maximum seconds for which a claim waits for replay samples that are still being written. It never waits for more
    than a quarter of the lease's time to live."""
    replay_at_once: int = Field(8, ge=1)
    """Maximum number of replay samples that are written at once."""
