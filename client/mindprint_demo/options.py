"""What can be chosen about a demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Every field has a default that ends within a quarter of an hour on two cores."""

    data: Path | None = None
    """A folder of records; users are made from `seed` if there is none."""
    users: int = 4
    ids: tuple[str, ...] = ()
    """These users of `data`, in place of the first `users`."""
    engagements: int = 24
    held_out: int = 12
    """Later questions to each user on which base and adapter are compared."""
    seed: int = 0
    model: str = "default"
    work_dir: Path = Path(".mindprint/demo")
    keep_runs: int = 3
    """Older runs in `work_dir` are removed."""
    resume: bool = False
    """Go on with the newest run in `work_dir`, which was stopped."""
    in_flight: int = 16
    """Held-out questions that are put to the server at once."""
    thinking: bool = True
    """Also compare the answers that are given after thinking."""
    kill_trainer: bool = False
    """Kill the trainer in the middle of an adapter and start it again."""
    collapse: bool = False
    """Also train one user's adapter by answers only, for the gate to refuse."""
    collapse_epochs: int = 8
    collapse_learning_rate: float = 1e-3
    """More and faster than the trainer's defaults, so that the thinking is gone for certain."""
    start_timeout_s: float = 600
    train_timeout_s: float = 1800
    """Seconds without any progress after which the demo gives up."""
    transcript: Path | None = None
    """Where the whole output is written as plain text."""
    json_file: Path | None = None
    """Where the results are written."""
