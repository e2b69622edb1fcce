"""Previews a training for `mindprint train --dry-run`."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from mindprint.types.keys import VersionRef
from mindprint_trainer.training.run import TrainingRun


def preview_table(run: TrainingRun) -> Table:
    """Return a table of a run's sequences and tokens by kind and user, with its steps and start below."""
    lease = run.lease
    table = Table(title=f"what {lease.adapter} would be trained on", caption="\n".join(preview_lines(run)))
    for name in ("kind", "user"):
        table.add_column(name, overflow="fold")
    for name in ("sequences", "prompt tokens", "target tokens", "cut", "dropped"):
        table.add_column(name, justify="right")
    samples = Counter((sample.kind, sample.user_id or "") for sample in lease.samples)
    for (kind, user), count in sorted(samples.items()):
        sequences = [one for one in run.sequences if (one.kind, one.user_id or "") == (kind, user)]
        prompt_tokens = sum(one.prompt_length for one in sequences)
        cells = (
            len(sequences),
            prompt_tokens,
            sum(len(one.ids) for one in sequences) - prompt_tokens,
            sum(one.cut_tokens > 0 for one in sequences),
            count - len(sequences),
        )
        table.add_row(kind, user or "-", *map(str, cells))
    return table


def preview_lines(run: TrainingRun) -> list[str]:
    """Return lines that describe a run's lease, its steps and its held-out engagements."""
    lease, settings = run.lease, run.settings
    start = VersionRef.of(lease.start.adapter, lease.start.version) if lease.start else "a fresh adapter"
    held_out = sum(map(len, lease.held_out.values()))
    return [
        f"{len(lease.trace_ids)} traces, attempt {lease.attempt}, starts from {start}",
        f"{len(run.plan)} steps in {settings.epochs} epochs, {run.total_tokens} tokens",
        f"held out for the gate: {held_out} engagements of {len(lease.held_out)} users",
    ]
