"""What people see: progress bars on a terminal, log lines elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mindprint.types import Manifest
from mindprint_trainer.training.run import StepReport

log = structlog.get_logger("mindprint_trainer")


@dataclass(frozen=True, slots=True)
class LeaseOutcome:
    """How one lease ended."""

    adapter: str
    traces: int
    result: str
    """`version 3`, or why there is none."""
    manifest: Manifest | None = None


class LogReporter:
    """One line for each event, and one each few seconds of training."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._told: dict[str, float] = {}
        """When, by lease."""

    def live(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def say(self, event: str, **fields: Any) -> None:
        log.info(event, **fields)

    def step(self, step: StepReport) -> None:
        now = time.monotonic()
        if step.step < step.steps and now - self._told.get(step.lease_id, float("-inf")) < self._every_s:
            return
        self._told[step.lease_id] = now
        if step.step == step.steps:
            del self._told[step.lease_id]
        log.info(
            "training",
            adapter=step.adapter,
            step=f"{step.step}/{step.steps}",
            tokens_per_second=round(tokens_per_second(step)),
            seconds_left=round((step.total_tokens - step.tokens) / tokens_per_second(step)),
            **{name: round(value, 3) for name, value in step.losses.items()},
        )


class TerminalReporter:
    """A bar for each training."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        """By lease: trainings may run beside each other."""

    def live(self) -> AbstractContextManager[Any]:
        return self._progress

    def say(self, event: str, **fields: Any) -> None:
        told = "  ".join(f"{name}={value}" for name, value in fields.items())
        self._progress.console.print(f"{event}  {told}", markup=False, highlight=False)

    def step(self, step: StepReport) -> None:
        if step.lease_id not in self._bars:
            bar = self._progress.add_task(step.adapter, total=step.total_tokens, completed=step.resumed_tokens, told="")
            self._bars[step.lease_id] = bar
        told = " ".join(f"{name} {value:.2f}" for name, value in step.losses.items())
        self._progress.update(
            self._bars[step.lease_id], completed=step.tokens, told=f"{told}  {tokens_per_second(step):.0f} tokens/s"
        )


ProgressReporter = LogReporter | TerminalReporter


def create_reporter(console: Console, every_s: float) -> ProgressReporter:
    return TerminalReporter(console) if console.is_terminal else LogReporter(every_s)


def tokens_per_second(step: StepReport) -> float:
    return (step.tokens - step.resumed_tokens) / max(step.seconds, 1e-9)


def outcome_table(outcomes: Sequence[LeaseOutcome]) -> Table:
    """One line a lease; losses in nats a token, from the first epoch to the last."""
    made = Table(title="trained")
    for name in ("adapter", "result"):
        made.add_column(name, overflow="fold")
    for name in ("traces", "sequences", "loss", "tokens/s", "canary shift"):
        made.add_column(name, justify="right")
    for outcome in outcomes:
        made.add_row(outcome.adapter, outcome.result, str(outcome.traces), *manifest_cells(outcome.manifest))
    return made


def manifest_cells(manifest: Manifest | None) -> tuple[str, str, str, str]:
    """Sequences, losses, speed (canary included) and by how many nats a token the adapter moves its canary."""
    if manifest is None:
        return ("", "", "", "")
    sequences = sum(manifest.samples.get(kind, 0) for kind in ("slow", "fast", "replay"))
    losses = "\n".join(
        f"{name.removesuffix('_first')} {value:.2f} to {manifest.losses[name.removesuffix('_first') + '_last']:.2f}"
        for name, value in manifest.losses.items()
        if name.endswith("_first")
    )
    shifts = [
        abs(ours - theirs)
        for item in manifest.canary
        for ours, theirs in zip(item.logprobs, item.base_logprobs, strict=True)
    ]
    return str(sequences), losses, f"{manifest.tokens / manifest.seconds:.0f}", f"{sum(shifts) / len(shifts):.2f}"
