"""Send the engagements of a file, user by user, in requests of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mindprint.cli.errors import Fail
from mindprint.cli.output import console, print_rows
from mindprint.importers import BadImport, Format, Skips, detect, read
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


def import_path(
    client: MindprintClient, path: Path, kind: Format, bounds: Bounds, *, outputs: Path | None, user: str | None
) -> None:
    """Read a file twice: to check all of it before anything is sent, then to send it. Print what was stored.

    Args:
        client: The client.
        path: A file, or the folder of an export.
        kind: Its format; `auto` detects it.
        bounds: Bounds of each request.
        outputs: LaMP's file of answers.
        user: The user of rows without a `user_id`, or the only user to import.

    Raises:
        Fail: The file cannot be used. Nothing was sent.
    """
    screen = console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("checking", total=None)
        skips = Skips()
        total = 0
        try:
            known = detect(path) if kind == "auto" else kind
            if outputs is not None and known != "lamp":
                raise Fail("--outputs holds LaMP's answers: it comes with --format lamp", code=2)
            rows = partial(read, path, known, outputs=outputs, user=user)
            for total, _ in enumerate(rows(skips), 1):
                if total % _STEP == 0:
                    progress.update(task, completed=total)
        except BadImport as error:
            raise Fail(f"{error} (nothing was sent)") from error
        if not total:
            reasons = "; ".join(f"{count} left out: {reason}" for reason, count in skips.most_common())
            raise Fail(f"{path} holds no engagements{f' that can be used ({reasons})' if reasons else ''}")
        progress.reset(task, total=total, description="sending")
        created = unchanged = 0
        users: set[str] = set()
        for user_id, part in batched(rows(Skips()), bounds):
            done = client.users.add_engagements(user_id, part)
            users.add(user_id)
            created, unchanged = created + done.created, unchanged + done.unchanged
            progress.advance(task, len(part))
    stored = [("engagements created", created), ("engagements unchanged", unchanged)]
    print_imported([("users", len(users)), *stored], skips)


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


def print_imported(stored: Sequence[tuple[str, int]], skips: Skips) -> None:
    """Print how many rows of a file were stored, unchanged and left out."""
    left_out = [(f"left out: {reason}", count) for reason, count in skips.most_common()]
    print_rows(("imported", "number"), [*stored, *left_out], empty="")
