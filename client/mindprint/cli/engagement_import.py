"""Check the engagements of a file, and send them user by user in requests of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import typer
from pydantic import BaseModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mindprint.cli.errors import Fail
from mindprint.cli.left_out import (
    LeftOutOptions,
    nothing_sent,
    print_imported,
    print_left_out,
    refuse,
    refuse_stream,
    write_files,
)
from mindprint.cli.output import console, print_facts, print_json, print_rows, short
from mindprint.importers import Format, Known, ReadOptions, Rows, Skips, detect, read
from mindprint.importers.summary import ImportSummary, LeftOut, Survey
from mindprint.sync_client import MindprintClient

Row = TypeVar("Row", bound=BaseModel)
_STEP = 200
"""Rows between two updates of the screen while a file is checked."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of one request. The server refuses more than 1000 rows, and bodies above its `max_body_bytes` (1 MB).

    Attributes:
        rows: Rows in a request.
        size: Bytes of a request.
        held: Bytes of rows of all users that wait for further rows of their user.
    """

    rows: int = 1000
    size: int = 900_000
    held: int = 32_000_000


@dataclass(frozen=True, kw_only=True)
class ImportOptions(LeftOutOptions):
    """How a file is read, and what is written about it.

    Attributes:
        kind: Its format; `auto` detects it.
        outputs: LaMP's file of answers.
        user: Of tables and pairs the column of the users; of other formats the same as `one_user`.
        one_user: The user of rows that name none, and the only user to import.
        read: How the rows of some formats are read.
        id_map: A file for the ids that were changed.
    """

    kind: Format = "auto"
    outputs: Path | None = None
    user: str | None = None
    one_user: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    id_map: Path | None = None

    def of_users(self, kind: Known) -> tuple[str | None, ReadOptions]:
        """Return the one user of a file of this format, and how its rows are read.

        Raises:
            Fail: Two users are named, of a format that has no columns.
        """
        if kind in ("table", "pairs"):
            return self.one_user, replace(self.read, columns=replace(self.read.columns, user=self.user))
        if self.user is not None and self.one_user is not None:
            raise Fail(f"--user names a column, and the format {kind} has none: leave it out", code=2)
        return self.one_user or self.user, self.read


class Imported(BaseModel):
    """What was stored of a file."""

    users: int
    created: int
    unchanged: int
    skipped: LeftOut


@dataclass(frozen=True)
class _Checked:
    """A file whose rows were all read once."""

    rows: Callable[[Skips], Rows]
    summary: ImportSummary
    skips: Skips


def show_import(path: Path, options: ImportOptions) -> None:
    """Print what would come in from a file, and send nothing.

    Args:
        path: A file, or the folder of an export.
        options: How it is read.

    Raises:
        Fail: The file cannot be used.
    """
    checked = _check(path, options, Progress(disable=True))
    write_files(checked.skips, skipped=options.skipped, id_map=options.id_map)
    if options.as_json:
        print_json(checked.summary)
    else:
        _print_summary(path, checked.summary)
        print_left_out(checked.skips)
    refuse(path, "engagements", checked.summary.rows, checked.skips, options.max_bad_share)


def import_path(client: MindprintClient, path: Path, options: ImportOptions, bounds: Bounds) -> None:
    """Read a file twice: to check all of it before anything is sent, then to send it. Print what was stored.

    Args:
        client: The client.
        path: A file, or the folder of an export.
        options: How it is read.
        bounds: Bounds of each request.

    Raises:
        Fail: The file cannot be used. Nothing was sent.
    """
    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        checked = _check(path, options, progress)
        write_files(checked.skips, skipped=options.skipped, id_map=options.id_map)
        refuse(path, "engagements", checked.summary.rows, checked.skips, options.max_bad_share)
        task = progress.add_task("sending", total=checked.summary.rows)
        created = unchanged = 0
        users: set[str] = set()
        for user_id, part in batched(checked.rows(Skips()), bounds):
            done = client.users.add_engagements(user_id, part)
            users.add(user_id)
            created, unchanged = created + done.created, unchanged + done.unchanged
            progress.advance(task, len(part))
    skips = checked.skips
    if options.as_json:
        return print_json(Imported(users=len(users), created=created, unchanged=unchanged, skipped=LeftOut.of(skips)))
    stored = [("engagements created", created), ("engagements unchanged", unchanged)]
    print_imported([("users", len(users)), *stored], skips)
    print_left_out(skips)


def _check(path: Path, options: ImportOptions, progress: Progress) -> _Checked:
    task = progress.add_task("checking", total=None)
    for file in filter(None, (path, options.outputs)):
        refuse_stream(file)
    survey, skips = Survey(), Skips(max_places=None) if options.skipped else Skips()
    with nothing_sent():
        kind: Known = detect(path, options.read.columns) if options.kind == "auto" else options.kind
        if options.outputs is not None and kind != "lamp":
            raise Fail("--outputs holds LaMP's answers: it comes with --format lamp", code=2)

        user, how = options.of_users(kind)

        def rows(skips: Skips) -> Rows:
            return read(path, kind, skips, outputs=options.outputs, user=user, options=how)

        for user_id, row in rows(skips):
            survey.add(user_id, row)
            if survey.rows % _STEP == 0:
                progress.update(task, completed=survey.rows)
    progress.remove_task(task)
    return _Checked(rows, survey.summary(kind, skips), skips)


def batched(rows: Iterator[tuple[str, Row]], bounds: Bounds) -> Iterator[tuple[str, list[Row]]]:
    """Group rows by user into requests within the bounds. A user's rows keep their order."""
    waiting: dict[str, list[Row]] = {}
    sizes: dict[str, int] = {}
    held = 0
    for user_id, row in rows:
        size = len(row.model_dump_json().encode()) + 1  # the comma
        if user_id in waiting and (len(waiting[user_id]) >= bounds.rows or sizes[user_id] + size > bounds.size):
            yield user_id, waiting.pop(user_id)
            held -= sizes.pop(user_id)
        elif held + size > bounds.held:
            yield from waiting.items()
            waiting, sizes, held = {}, {}, 0
        waiting.setdefault(user_id, []).append(row)
        sizes[user_id] = sizes.get(user_id, 0) + size
        held += size
    yield from waiting.items()


def _print_summary(path: Path, summary: ImportSummary) -> None:
    """Print what a file holds, and five of its rows."""
    open_rows = summary.rows - summary.closed_rows
    sets = [f"{short(' / '.join(each.choices))} ({each.rows})" for each in summary.choice_sets]
    others = [f"others ({summary.other_choice_sets})"] if summary.other_choice_sets else []
    span = f"{summary.first:%Y-%m-%d %H:%M} to {summary.last:%Y-%m-%d %H:%M} UTC" if summary.first else None
    print_facts(
        [
            ("file", path),
            ("format", summary.format),
            ("people", summary.people),
            ("rows", summary.rows),
            ("time", span),
            ("closed", f"{summary.closed_rows} rows with choices, {open_rows} open"),
            ("choices", "; ".join([*sets, *others])),
            *(("note", note) for note in summary.skipped.notes),
        ]
    )
    typer.echo()
    shown = [
        (
            each.user_id,
            each.engagement.id,
            each.engagement.occurred_at,
            short(each.engagement.prompt),
            short(each.engagement.response),
        )
        for each in summary.examples
    ]
    print_rows(("user", "id", "time", "prompt", "response"), shown, empty="no rows that can be used")
    typer.echo()
    left_out = [(each.reason, each.rows) for each in summary.skipped.left_out]
    print_rows(("left out", "rows"), left_out, empty="no row is left out")
