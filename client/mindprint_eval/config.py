"""Options of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mindprint_eval.arms import METHOD_ARMS
from mindprint_eval.training_sets import Thresholds

UserPart = Literal["all", "tune", "report"]


class EvaluationError(Exception):
    """The evaluation cannot go on. The message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of `mindprint eval run`."""

    data: Path
    out: Path = Path(".mindprint/eval")
    users: int = 4
    ids: tuple[str, ...] = ()
    """Ids of users of `data`; empty takes the first `users`."""
    part: UserPart = "all"
    """`tune` takes every other user, for choosing settings; `report` the rest, for the figures; `all` takes all."""
    rows: int = 20
    """Held-out questions to each user."""
    engagements: int = 20
    """Newest past engagements of each user that memory and training may use."""
    seeds: int = 1
    """Number of seeds; each has its own traces and trainings."""
    first_seed: int = 0
    """First seed. Seeds can be spread over runs, which `merge` puts together."""
    group: int = 4
    """Users of a shard: they share a server, and the nearest user is one of them."""
    pool: int = 2
    """Other users, whose answers train the pooled adapter."""
    arms: tuple[str, ...] = METHOD_ARMS
    thresholds: Thresholds = field(default_factory=Thresholds)
    objective: Mapping[str, str] = field(default_factory=dict)
    """Trainer settings for all recipes, by variable name without prefix."""
    server: Mapping[str, str] = field(default_factory=dict)
    """Server settings, by variable name without prefix."""
    general: int = 12
    """General questions that each adapter is asked."""
    model: str = "default"
    embeddings: Path | None = None
    """Folder of a transformers model that embeds traces and written reasons; None measures no similarity."""
    gate: bool = False
    """Whether the gate evaluates each version, about a minute each. A refused version answers nothing."""
    in_flight: int = 48
    """Maximum number of concurrent requests."""
    start_timeout_s: float = 600
    train_timeout_s: float = 3600
    """Seconds without any progress after which a training counts as failed. The server's checks do not count."""

    @property
    def numbers(self) -> range:
        """Return the seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)
