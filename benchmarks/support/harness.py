"""What the benchmarks share: options, rows and bars as table and JSON, and sides that take turns."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mindprint import MindprintError
from mindprint.datasets import DatasetError
from mindprint.local.console import Output
from mindprint.local.processes import ProcessFailed
from mindprint.model_files import MissingModel
from support.environment import command, machine, versions

T = TypeVar("T")
ROUNDS = 3

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results there as well.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small sizes: shows that all of it works, not what it can do.")]


class CannotMeasure(Exception):
    """What stands in the way, in one line. The script exits with 1."""


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    min: float
    max: float


Cell = str | int | float | Spread | None


def spread(values: Iterable[float]) -> Spread:
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def format_number(value: float) -> str:
    """Three figures that count, and no more digits than that."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class Bar:
    """What must hold of a measured value: just one of `at_least` and `at_most` is given."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"bar {self.name!r} takes either at_least or at_most")

    @property
    def holds(self) -> bool:
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.at_most is not None and self.value <= self.at_most

    @property
    def wanted(self) -> str:
        return f"at least {self.at_least}" if self.at_least is not None else f"at most {self.at_most}"


@dataclass
class Report:
    """The results of one script."""

    name: str
    command: str
    machine: dict[str, str | int | float] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    rows: list[dict[str, Cell]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    ended_early: bool = False
    """Whether somebody ended the script: its rows and bars are what was measured until then."""

    def row(self, **cells: Cell) -> None:
        self.rows.append(cells)

    def bar(self, name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        self.bars.append(Bar(name, value, at_least, at_most))

    def tables(self) -> list[Table]:
        """Return the rows, one table for each set of columns in the order of their first row, then the bars."""
        grouped: dict[tuple[str, ...], list[list[Cell]]] = {}
        for row in self.rows:
            grouped.setdefault(tuple(row), []).append(list(row.values()))
        tables = [_table([name.replace("_", " ") for name in names], rows) for names, rows in grouped.items()]
        if self.bars:
            bars = [[bar.name, bar.value, bar.wanted, "yes" if bar.holds else "NO"] for bar in self.bars]
            tables.append(_table(["bar", "value", "wanted", "holds"], bars))
        return tables

    def document(self) -> dict[str, Any]:
        rows = [
            {name: vars(cell) if isinstance(cell, Spread) else cell for name, cell in row.items()} for row in self.rows
        ]
        bars = [{k: v for k, v in vars(bar).items() if v is not None} | {"holds": bar.holds} for bar in self.bars]
        return {
            "name": self.name, "command": self.command, "machine": self.machine, "versions": self.versions,
            "rows": rows, "bars": bars, **({"ended_early": True} if self.ended_early else {}),
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """All of the file or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as stream:
            try:
                json.dump(self.document(), stream, indent=2, allow_nan=False)
                stream.write("\n")
                stream.flush()
                os.chmod(stream.name, 0o644)
                os.replace(stream.name, path)
            except BaseException:
                os.unlink(stream.name)
                raise


def _table(names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """Return a table. In a wide one, the ends of a spread stand below its median."""
    table, spreads = Table(box=SIMPLE_HEAD), "{}\n{}..{}" if len(names) > 7 else "{} ({}..{})"
    for name, cells in zip(names, zip(*rows, strict=True), strict=True):
        words = all(isinstance(cell, str) for cell in cells)
        wide = any(isinstance(cell, Spread) for cell in cells)
        table.add_column(name, justify="left" if words else "right", no_wrap=wide)
    for row in rows:
        table.add_row(*(_shown(cell, spreads) for cell in row))
    return table


def _shown(cell: Cell, spreads: str) -> str:
    if isinstance(cell, Spread):
        return spreads.format(*map(format_number, (cell.median, cell.min, cell.max)))
    return "-" if cell is None else cell if isinstance(cell, str) else format_number(cell)


def silent_output() -> Output:
    """For parts whose progress is not worth a line of its own."""
    return Output(Console(quiet=True, force_terminal=False))


async def alternate(
    sides: Mapping[str, Callable[[], Awaitable[T]]],
    rounds: int = ROUNDS,
    *,
    warm_up: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, list[T]]:
    """Run the sides in turn, every other round in reverse, so that a drift of the machine meets all of them alike.

    The results of the warm-up, which runs every side once, are thrown away. `tell` hears what is about to run.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(-1 if warm_up else 0, rounds):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            tell(f"{name}, " + (f"round {turn + 1} of {rounds}" if turn >= 0 else "warm-up"))
            result = await sides[name]()
            if turn >= 0:
                results[name].append(result)
    return results


def measure(
    what: str | None, takes: str, json_file: Path | None, work: Callable[[Output, Report], Awaitable[None]]
) -> None:
    """Run a script's work: print `what` and how long it takes, then the report, and write the file.

    Ends the process with 1 if nothing could be measured; a bar that does not hold is a result like any other. Who ends
    the script (SIGTERM, Ctrl-C) gets what was measured until then, marked as such, and 1 as well.
    """
    out, report = Output(), Report(Path(sys.argv[0]).stem, command(sys.argv))
    out.say(
        f"{inspect.cleandoc(what or '')}\n\nTakes {takes}. Load of the machine now: {report.machine['load_before']}"
    )
    try:
        if json_file is not None:
            json_file.parent.mkdir(parents=True, exist_ok=True)

        report.ended_early = not asyncio.run(finish_or_interrupt(work(out, report)))
    except (CannotMeasure, MindprintError, ProcessFailed, MissingModel, DatasetError, OSError) as error:
        out.say(f"could not measure: {error}")
        raise typer.Exit(1) from error
    if report.ended_early:
        out.say("ended before it was done" + ("; until then:" if report.rows else ", and nothing had been measured"))
    for table in report.tables():
        out.say(table)
    if json_file is not None and (report.rows or not report.ended_early):
        report.write(json_file)
    if report.ended_early:
        raise typer.Exit(1)


async def finish_or_interrupt(work: Awaitable[None]) -> bool:
    """Whether the work came to its end. SIGTERM and Ctrl-C cancel it: its engines and processes end with it."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True
