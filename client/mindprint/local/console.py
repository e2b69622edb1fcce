"""Print progress: tables and live bars on a terminal, plain lines elsewhere and in the transcript."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from mindprint.types import Batch

WIDTH = 118
"""Columns of the transcript and of an output that is no terminal."""
LINE_EVERY_S = 10.0
"""Seconds between two progress lines where there is no live bar."""
_FIELD = re.compile(r"(\w+)=(\S+)")


@dataclass
class Bar:
    """Progress of one stage. `total` is its number of steps; None if that is not known."""

    title: str
    total: int | None
    live: tuple[Progress, TaskID] | None
    plain: list[Console]
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    note: str = ""
    _told: float = field(default_factory=time.monotonic)

    def update(self, done: int, note: str = "") -> None:
        """Show how far the stage is.

        Args:
            done: Steps done.
            note: Words behind the bar.
        """
        self.done, self.note = done, note
        if self.live is not None:
            progress, task = self.live
            progress.update(task, completed=done, note=note)
        if time.monotonic() - self._told >= LINE_EVERY_S:
            self._tell()

    def advance(self) -> None:
        """Count one step."""
        self.update(self.done + 1, self.note)

    def finish(self, outcome: str) -> None:
        """Print the line that stays when the bar disappears."""
        seconds = time.monotonic() - self.began
        for console in (self.live[0].console, *self.plain) if self.live else self.plain:
            console.print(Text(f"{self.title}: {outcome} ({seconds:.0f} s)"))

    def _tell(self) -> None:
        self._told = time.monotonic()
        of = f" {self.done}/{self.total}" if self.total is not None else ""
        for console in self.plain:
            console.print(Text(f"{self.title}:{of} {self.note}".rstrip()), style="dim", soft_wrap=True)


class Output:
    """Print to the console and to the transcript, if there is one."""

    def __init__(self, console: Console | None = None, transcript: TextIO | None = None) -> None:
        self.console = console or Console()
        if not self.console.is_terminal and console is None:
            self.console = Console(width=WIDTH)
        self._copies = (
            [Console(file=transcript, width=WIDTH, color_system=None, force_terminal=False)] if transcript else []
        )

    def say(self, *what: RenderableType) -> None:
        """Print texts and tables."""
        # Texts are wrapped, so that brackets in them are not read as markup.
        plain = [Text(part) if isinstance(part, str) else part for part in what]
        words_only = all(isinstance(part, str) for part in what)
        for console in (self.console, *self._copies):
            console.print(*plain, soft_wrap=words_only)

    @contextmanager
    def bar(self, title: str, total: int | None = None) -> Iterator[Bar]:
        """Show the progress of a stage. The bar disappears when the stage ends; the line of `finish` stays."""
        if not self.console.is_terminal:
            yield Bar(title, total, None, [self.console, *self._copies])
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            *((BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}")) if total is not None else ()),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total, note="")
            yield Bar(title, total, (progress, task), self._copies)


@contextmanager
def opened(transcript: Path | None) -> Iterator[Output]:
    """Yield an output. Its transcript, if there is one, is written line by line."""
    if transcript is None:
        yield Output()
        return
    transcript.parent.mkdir(parents=True, exist_ok=True)
    with transcript.open("w", encoding="utf-8", buffering=1) as stream:
        yield Output(transcript=stream)


def batch_progress(batch: Batch) -> str:
    """Describe what a batch has written so far, in one line."""
    funnel = batch.funnel
    return f"{funnel.accepted} accepted of {funnel.generated}, {batch.tokens_per_second:.0f} tokens/s"


def training_progress(event: str) -> str:
    """Shorten the trainer's last logged event while it trains; other events stay as they are."""
    fields = dict(_FIELD.findall(event))
    if not event.startswith("training") or not {"adapter", "step", "tokens_per_second"} <= fields.keys():
        return event
    return f"training {fields['adapter']}, step {fields['step']}, {fields['tokens_per_second']} tokens/s"
