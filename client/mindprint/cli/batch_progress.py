"""Show a running batch: live on a terminal, a line every few seconds elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from mindprint.cli.batch_stats import funnel_rows, left_out, pace, percent, summary
from mindprint.cli.errors import Fail
from mindprint.cli.output import WIDE, cell, console, facts, numbers
from mindprint.endpoints.batches import FINAL_STATES
from mindprint.sync_client import MindprintClient
from mindprint.types import Batch

LINE_EVERY_S = 5.0


def watch_batch(client: MindprintClient, batch_id: str, *, as_json: bool) -> None:
    """Show a batch until it ends.

    Args:
        client: The client.
        batch_id: The batch.
        as_json: Print each state as one line of JSON.

    Raises:
        Fail: The batch failed or was cancelled, or Ctrl-C was pressed.
    """
    states = client.batches.watch(batch_id)
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
        print_funnel(last)
    if last.state == "failed":
        raise Fail(f"batch {batch_id} failed: {last.error or 'look at the log of the server'}")
    if last.state == "cancelled":
        raise Fail(f"batch {batch_id} was cancelled after {last.done} of {last.items} engagements")


def print_funnel(batch: Batch) -> None:
    """Print the funnel of a batch and its speed."""
    console().print(Group("", _funnel(batch), "", facts(pace(batch))))
    if hint := left_out(batch):
        typer.echo(f"\n{hint}")


def _as_json(states: Iterator[Batch]) -> Batch:
    for batch in states:
        typer.echo(batch.model_dump_json())
    return batch


def _lines(states: Iterator[Batch]) -> Batch:
    """Print a line every few seconds, but not for the last state: the caller prints it in full."""
    printed_at = 0.0
    for batch in states:
        if batch.state not in FINAL_STATES and time.monotonic() - printed_at >= LINE_EVERY_S:
            printed_at = time.monotonic()
            typer.echo(summary(batch))
    return batch


def _live(states: Iterator[Batch], screen: Console) -> Batch:
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        for batch in states:
            live.update(frame(batch, screen.width), refresh=True)
    return batch


def frame(batch: Batch, width: int) -> RenderableType:
    """Render one state of a batch. On a narrow terminal the speed takes one line."""
    bar = ProgressBar(total=max(batch.items, 1), completed=batch.done, width=40)
    done = Table.grid(padding=(0, 2))
    if width < WIDE:
        done.add_row(bar)
        return Group(done, cell(summary(batch)), "", _funnel(batch))
    done.add_row(cell(batch.state), bar, cell(f"{batch.done}/{batch.items} engagements"))
    parts = Table.grid(padding=(0, 6))
    parts.add_row(facts(pace(batch)), _funnel(batch))
    waits = [cell(f"waits: {batch.waiting_for}")] if batch.waiting_for else []
    return Group(done, *waits, "", parts)


def _funnel(batch: Batch) -> Table:
    rows = [(stage.name, stage.number, percent(stage.share) or "") for stage in funnel_rows(batch)]
    return numbers(("funnel", "count", "share"), rows)
