"""Settings of the queue: what waits for a trainer, and what a lease brings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class QueueSettings(BaseModel):
    """The queue: attempts, backlog, samples of a lease, held-out engagements, replay."""

    max_attempts: int = Field(3, ge=1)
    """Failed leases after which a trace is no longer trained on and becomes `dead_letter`."""
    max_backlog: int = Field(10_000, ge=1)
    """Most accepted traces that wait for one adapter. Batches skip users above it. What is in progress may exceed
    it."""
    cohort_min_traces: int = Field(64, ge=1)
    """Least new traces with which a cohort's adapter is trained. A trainer that names the cohort (`mindprint train
    --adapter cohort/<name>`) goes by its own `min_traces` instead."""
    max_fast_samples: int = Field(512, ge=0)
    """Most fast samples of a lease: newest engagements, answered directly. For a cohort, of all users together."""
    answer_rejected: bool = True
    """Train the real answer after an engagement's first unhinted thinking, even if that was rejected. An accepted
    thinking that came later then trains the thinking alone: it was chosen for its answer, and an adapter would learn
    to be certain after any thinking. Default: decision 014."""
    start_from: Literal["parent", "cohort", "base"] = "parent"
    """What a training starts from. `parent`: the adapter's live version, else its cohort's. `cohort`: always the
    cohort's. `base`: the base model."""

    holdout_share: float = Field(0.1, ge=0, lt=1)
    """Share of a user's engagements, the newest, that are never trained on. The gate asks them. 0 holds out none."""
    holdout_min_engagements: int = Field(20, ge=1)
    """Least engagements of a user of whom some are held out. With fewer, all are trained on."""
    holdout_max_engagements: int = Field(16, ge=1)
    """Most held-out engagements of one user."""

    replay_share: float = Field(0.1, ge=0, le=1)
    """Replay samples of a lease as a share of its other samples: generic thinking of the base model about general
    questions. 0 adds none."""
    replay_wait_s: float = Field(10, ge=0)
    """Seconds for which a claim waits for replay samples that are still being written. At most a quarter of the
    lease's time."""
    replay_at_once: int = Field(8, ge=1)
    """Most replay samples that are written at once."""
