"""Print tables for people and JSON for programs, without control characters from users or models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import typer
from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mindprint.row_files import write_rows

NOTHING = "-"


PIPE_WIDTH = 160
"""Width in columns if the output is no terminal: wide enough for ids."""


GAP = 1
"""Columns between the columns of a table."""
MIN_LAST = 12
"""Width in columns below which the last column of a table says too little."""
WIDE = 100
"""Minimum width in columns at which tables show more details."""


def console() -> Console:
    """Create a console. Create it at each use, so that it writes to a redirected stdout."""
    screen = Console(highlight=False)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = PIPE_WIDTH
    return screen


def print_json(value: BaseModel) -> None:
    """Print a reply as indented JSON."""
    typer.echo(value.model_dump_json(indent=2))


def safe(text: str) -> str:
    """Replace control characters in a text of a user or model, because a terminal would execute them."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def short(text: str, width: int = 60) -> str:
    """Return the beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def cell(value: object) -> Text:
    if value is None or value == "":
        return Text(NOTHING, style="dim")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M"))
    return Text(safe(str(value)))


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, fold: bool = False) -> None:
    """Print a table. Columns of numbers are aligned to the right. The first column is never cut: people copy its ids.

    Args:
        columns: Titles of the columns.
        rows: Values of the rows.
        empty: Line to print if there are no rows.
        fold: Wrap the last column on a narrow terminal, instead of cutting it.
    """
    listed = list(rows)
    if not listed:
        typer.echo(empty)
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP, 0, 0))
    screen, last = console(), len(columns) - 1
    cells = [[cell(value) for value in row] for row in listed]
    widths = [max(len(name), *(row[i].cell_len for row in cells)) for i, name in enumerate(columns)]
    # Shorten the last column alone if that is enough, else the other ones too.
    last_is_enough = sum(width + GAP for width in widths[:-1]) + min(widths[-1], MIN_LAST) <= screen.width
    for index, name in enumerate(columns):
        numbers = all(isinstance(row[index], int | float | None) for row in listed)
        kept = index != last and (index == 0 or numbers or last_is_enough)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=kept)
        for row in cells:
            row[index].no_wrap = not (fold and index == last)
            row[index].overflow = "ellipsis" if row[index].no_wrap else "fold"
    for row in cells:
        table.add_row(*row)
    screen.print(table)


def numbers(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table with names in the first column, which may wrap, and numbers in the others, which may not."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in rows:
        table.add_row(*("" if value == "" else cell(value) for value in row))
    return table


def facts(named: Iterable[tuple[str, object]]) -> Table:
    """Return a table with one line for each property of a thing."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in named:
        table.add_row(name, cell(value))
    return table


def print_facts(named: Iterable[tuple[str, object]]) -> None:
    console().print(facts(named))


def print_text(title: str, text: str) -> None:
    """Print a longer text below its title."""
    typer.secho(f"\n{title}", bold=True)
    typer.echo(safe(text) or NOTHING)


def print_next(after: str | None, command: str) -> None:
    """Print the command that shows the next page of a list; nothing if there is none."""
    if after is not None:
        typer.secho(f"more: {command} --after {after}", dim=True, err=True)


def write_ndjson(items: Iterator[BaseModel], file: Path | None, noun: str) -> None:
    """Write one item a line to stdout, or to a file of its owner alone. It appears only when it is complete."""
    if file is None:
        for item in items:
            typer.echo(item.model_dump_json())
        return
    count = write_rows(items, BaseModel, file, "jsonl")
    typer.echo(f"{count} {noun} written to {file}")
