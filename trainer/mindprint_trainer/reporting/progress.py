"""Progress: bars on a terminal, log lines elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mindprint.types import Manifest

if TYPE_CHECKING:
    # This module is imported before torch, which that one loads.
    from mindprint_trainer.training.run import StepReport

log = structlog.get_logger("mindprint_trainer")


@dataclass(frozen=True, slots=True)
class LeaseOutcome:
    """How one lease ended."""

    adapter: str
    traces: int
    result: str
    """Text such as `version 3`, or why there is no version."""
    manifest: Manifest | None = None
    """Manifest of the trained adapter; None if the training was not completed."""


class ProgressReporter(Protocol):
    """Shows what the trainer does."""

    def live(self) -> AbstractContextManager[Any]:
        """Return the context in which progress is shown."""
        ...

    def event(self, event: str, **fields: Any) -> None:
        """Show one line: what happened, and fields about it."""
        ...

    def step(self, step: StepReport) -> None:
        """Show the progress of a training run."""
        ...


class LogReporter:
    """Writes one log line for each event, and one line every few seconds for each training run."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._reported: dict[str, float] = {}
        """Time of the last line, by lease."""

    def live(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return nullcontext()

    def event(self, event: str, **fields: Any) -> None:
        """Write one log line."""
        log.info(event, **fields)

    def step(self, step: StepReport) -> None:
        """Write a log line if `every_s` seconds have passed, and after the last step."""
        now = time.monotonic()
        if step.step < step.steps and now - self._reported.get(step.lease_id, float("-inf")) < self._every_s:
            return
        self._reported[step.lease_id] = now
        if step.step == step.steps:
            del self._reported[step.lease_id]
        log.info(
            "training",
            adapter=step.adapter,
            step=f"{step.step}/{step.steps}",
            tokens_per_second=round(tokens_per_second(step)),
            seconds_left=round((step.total_tokens - step.tokens) / tokens_per_second(step)),
            **{name: round(value, 3) for name, value in step.losses.items()},
        )


class TerminalReporter:
    """Shows a bar for each training run, and events above the bars."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        """Bars by lease; several runs may be active."""

    def live(self) -> AbstractContextManager[Any]:
        """Return the context in which the bars are drawn."""
        return self._progress

    def event(self, event: str, **fields: Any) -> None:
        """Print one line above the bars."""
        line = "  ".join(f"{name}={value}" for name, value in fields.items())
        self._progress.console.print(f"{event}  {line}", markup=False, highlight=False)

    def step(self, step: StepReport) -> None:
        """Move the bar of a training run, with its losses and speed beside it."""
        if step.lease_id not in self._bars:
            bar = self._progress.add_task(step.adapter, total=step.total_tokens, completed=step.resumed_tokens, note="")
            self._bars[step.lease_id] = bar
        losses = " ".join(f"{name} {value:.2f}" for name, value in step.losses.items())
        note = f"{losses}  {tokens_per_second(step):.0f} tokens/s"
        self._progress.update(self._bars[step.lease_id], completed=step.tokens, note=note)


def create_reporter(console: Console, every_s: float) -> ProgressReporter:
    """Create a reporter with bars on a terminal, and with a log line every `every_s` seconds elsewhere."""
    return TerminalReporter(console) if console.is_terminal else LogReporter(every_s)


def tokens_per_second(step: StepReport) -> float:
    """Return the speed of a training run in this process, without the tokens from before a crash."""
    return (step.tokens - step.resumed_tokens) / max(step.seconds, 1e-9)


def outcome_table(outcomes: Sequence[LeaseOutcome]) -> Table:
    """Build a table with one line a lease. Losses are in nats a token, from the first epoch to the last.

    The last column is by how many nats a token the adapter shifts its parity items.
    """
    table = Table(title="trained")
    for name in ("adapter", "result"):
        table.add_column(name, overflow="fold")
    for name in ("traces", "sequences", "loss", "tokens/s", "parity shift"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        table.add_row(outcome.adapter, outcome.result, str(outcome.traces), *manifest_cells(outcome.manifest))
    return table


def manifest_cells(manifest: Manifest | None) -> tuple[str, str, str, str]:
    """Render a manifest for the table.

    Returns:
        Sequences, losses, tokens a second (with the parity items), and by how many nats a token the adapter shifts its
        parity items. All empty without a manifest.
    """
    if manifest is None:
        return ("", "", "", "")
    sequences = sum(manifest.samples.get(kind, 0) for kind in ("slow", "fast", "replay"))
    losses = "\n".join(
        f"{name.removesuffix('_first')} {value:.2f} to {manifest.losses[name.removesuffix('_first') + '_last']:.2f}"
        for name, value in manifest.losses.items()
        if name.endswith("_first")
    )
    shifts = [
        abs(adapted - unadapted)
        for item in manifest.parity_items
        for adapted, unadapted in zip(item.logprobs, item.base_logprobs, strict=True)
    ]
    return str(sequences), losses, f"{manifest.tokens / manifest.seconds:.0f}", f"{sum(shifts) / len(shifts):.2f}"
