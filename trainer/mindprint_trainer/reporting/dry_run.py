"""What a training would be made of, for `mindprint train --dry-run`."""

from __future__ import annotations

from collections import Counter

from rich.table import Table

from mindprint_trainer.training.run import TrainingRun


def preview_table(training: TrainingRun) -> Table:
    """Sequences by kind and user, with their tokens, and below what the training would be."""
    lease = training.lease
    made = Table(title=f"what {lease.adapter} would be trained on", caption="\n".join(preview_lines(training)))
    for name in ("kind", "user"):
        made.add_column(name, overflow="fold")
    for name in ("sequences", "prompt tokens", "target tokens", "cut", "dropped"):
        made.add_column(name, justify="right")
    asked = Counter((sample.kind, sample.user_id or "") for sample in lease.samples)
    for (kind, user), samples in sorted(asked.items()):
        mine = [one for one in training.sequences if (one.kind, one.user_id or "") == (kind, user)]
        prompts = sum(one.prompt_length for one in mine)
        figures = (
            len(mine),
            prompts,
            sum(len(one.ids) for one in mine) - prompts,
            sum(one.cut > 0 for one in mine),
            samples - len(mine),
        )
        made.add_row(kind, user or "-", *map(str, figures))
    return made


def preview_lines(training: TrainingRun) -> list[str]:
    lease, settings = training.lease, training.settings
    start = f"{lease.start.adapter}@{lease.start.version}" if lease.start else "a fresh adapter"
    held_out = sum(map(len, lease.held_out.values()))
    return [
        f"{len(lease.trace_ids)} traces, attempt {lease.attempt}, starts from {start}",
        f"{len(training.plan)} steps in {settings.epochs} epochs, {training.total_tokens} tokens",
        f"held out for the gate: {held_out} engagements of {len(lease.held_out)} users",
    ]
