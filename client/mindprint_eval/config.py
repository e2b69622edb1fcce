"""What can be chosen about an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mindprint_eval.arms import METHOD_ARMS
from mindprint_eval.training_sets import Thresholds

UserPart = Literal["all", "tune", "report"]


class EvaluationError(Exception):
    """The message says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    data: Path
    out: Path = Path(".mindprint/eval")
    users: int = 4
    ids: tuple[str, ...] = ()
    """These users of `data`, in place of the first `users`."""
    part: UserPart = "all"
    """`tune` takes every other user of the records for choosing settings, `report` the rest, for the figures."""
    rows: int = 20
    """Later questions to each user."""
    engagements: int = 20
    """Past engagements of each user that memory and training know of, the newest."""
    seeds: int = 1
    """Trainings, each with traces of its own."""
    first_seed: int = 0
    """The others follow it: so seeds can be spread over runs and joined."""
    group: int = 4
    """Users who share a server, and among whom the nearest is looked for; a group with a seed is what is resumed."""
    pool: int = 2
    """Users beside them whose answers train the pooled adapter."""
    arms: tuple[str, ...] = METHOD_ARMS
    thresholds: Thresholds = field(default_factory=Thresholds)
    objective: Mapping[str, str] = field(default_factory=dict)
    """Settings of the trainer, by name without prefix, for all recipes."""
    server: Mapping[str, str] = field(default_factory=dict)
    """Settings of the server, by name without prefix."""
    general: int = 12
    """General questions to each adapter."""
    model: str = "default"
    embeddings: Path | None = None
    """The folder of a transformers model, by which traces are also compared with reasons that users wrote."""
    gate: bool = False
    """Whether the gate examines each version: then a refused one answers nothing. It takes about a minute a version."""
    in_flight: int = 48
    """Questions that are put to the server at once."""
    start_timeout_s: float = 600
    train_timeout_s: float = 3600
    """How long no version may be made before a training is given up."""

    @property
    def numbers(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)
