"""Shows a batch while it runs: live on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mindprint.cli.failures import Fail
from mindprint.cli.output import console, print_rows
from mindprint.client import MindprintClient
from mindprint.types import Batch

LINE_EVERY_S = 5.0


def funnel_rows(batch: Batch) -> list[tuple[str, int]]:
    """What became of the engagements and candidates, in the order of the way they go."""
    funnel = batch.funnel
    return [
        ("attempted", funnel.attempted),
        *((f"  skipped: {reason}", count) for reason, count in sorted(batch.skipped.items())),
        ("generated", funnel.generated),
        *((f"  rejected: {reason}", count) for reason, count in sorted(funnel.rejected.items())),
        ("accepted", funnel.accepted),
        ("trained", funnel.trained),
        ("live", funnel.live),
    ]


def watch_batch(client: MindprintClient, batch_id: str, *, as_json: bool) -> None:
    """Returns when the batch is done; raises Fail if it failed or was cancelled.

    With `as_json` each state is printed as one line of JSON.
    """
    states = client.watch_batch(batch_id)
    screen = console()
    try:
        if as_json:
            last = _as_json(states)
        elif screen.is_terminal:
            last = _live(states, screen)
        else:
            last = _lines(states)
    except KeyboardInterrupt:
        raise Fail(f"the batch goes on: `mindprint batches watch {batch_id}` follows it again", code=130) from None
    if not as_json:
        typer.echo(summary(last))
        print_rows(("funnel", "count"), funnel_rows(last), empty="")
    if last.state == "failed":
        raise Fail(f"batch {batch_id} failed: {last.error or 'look at the log of the server'}")
    if last.state == "cancelled":
        raise Fail(f"batch {batch_id} was cancelled after {last.done} of {last.items} engagements")


def summary(batch: Batch) -> str:
    """One line on where a batch stands."""
    return (
        f"{batch.state}: {batch.done}/{batch.items} engagements, {batch.funnel.generated} candidates, "
        f"{batch.funnel.accepted} accepted, {batch.tokens_per_second:.0f} tokens/s"
    )


def _as_json(states: Iterator[Batch]) -> Batch:
    for batch in states:
        typer.echo(batch.model_dump_json())
    return batch


def _lines(states: Iterator[Batch]) -> Batch:
    told = 0.0
    for batch in states:
        if time.monotonic() - told >= LINE_EVERY_S:
            told = time.monotonic()
            typer.echo(summary(batch))
    return batch


def _live(states: Iterator[Batch], screen: Console) -> Batch:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.0f} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
    )
    task = bar.add_task("batch", total=None, speed=0.0)
    with Live(bar, console=screen, refresh_per_second=4, transient=True) as live:
        for batch in states:
            bar.update(
                task, description=batch.state, total=batch.items, completed=batch.done, speed=batch.tokens_per_second
            )
            live.update(Group(bar, _funnel(batch)))
    return batch


def _funnel(batch: Batch) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, count in funnel_rows(batch):
        table.add_row(name, str(count))
    return table
