"""Sends a file of engagements, user by user, in requests of bounded size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from mindprint.cli.failures import Fail
from mindprint.cli.output import console
from mindprint.client import MindprintClient
from mindprint.streams import first
from mindprint.types import Engagement, Ingested, Name

_name = TypeAdapter[str](Name)


@dataclass(frozen=True)
class Bounds:
    """Of one request. The server refuses more than 1000 rows, and bodies above its `max_body_bytes`."""

    rows: int = 500
    size: int = 500_000


def import_file(client: MindprintClient, file: Path, user: str | None, bounds: Bounds) -> None:
    """Read the file twice: to check every line before anything is sent, then to send it. Says what was stored."""
    total = sum(1 for _ in read_engagements(file, user))
    if not total:
        raise Fail(f"{file} holds no engagements: write one a line, in JSON")
    created = unchanged = 0
    users: set[str] = set()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("sending", total=total)
        for user_id, rows in batched(read_engagements(file, user), bounds):
            done: Ingested = client.add_engagements(user_id, rows)
            users.add(user_id)
            created, unchanged = created + done.created, unchanged + done.unchanged
            progress.advance(task, len(rows))
    known = f", {unchanged} were there already" if unchanged else ""
    typer.echo(f"{created} engagements of {len(users)} user{'s' if len(users) > 1 else ''} stored{known}")


def read_engagements(file: Path, user: str | None) -> Iterator[tuple[str, Engagement]]:
    """The lines of a file as (user id, engagement). Raises Fail with the number of the first wrong line."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield _parse(line, user)
                except (ValueError, Fail) as error:
                    told = first(error) if isinstance(error, ValidationError) else str(error)
                    raise Fail(f"{file}:{number}: {told} (nothing was sent)") from error


def batched(rows: Iterator[tuple[str, Engagement]], bounds: Bounds) -> Iterator[tuple[str, list[Engagement]]]:
    """Groups rows by user into requests within the bounds; a user's rows keep their order."""
    held: dict[str, list[Engagement]] = {}
    sizes: dict[str, int] = {}
    for user_id, row in rows:
        size = len(row.model_dump_json().encode())
        if user_id in held and (len(held[user_id]) >= bounds.rows or sizes[user_id] + size > bounds.size):
            yield user_id, held.pop(user_id)
            sizes.pop(user_id)
        held.setdefault(user_id, []).append(row)
        sizes[user_id] = sizes.get(user_id, 0) + size
    yield from held.items()


def _parse(line: bytes, user: str | None) -> tuple[str, Engagement]:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise Fail(f"is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise Fail('is no JSON object: write {"id": ..., "prompt": ..., ...}')
    named = row.pop("user_id", None)
    if user is not None and named is not None and named != user:
        raise Fail(f"is of user {named!r}, not {user!r}: leave out --user to import all")
    if (user_id := user or named) is None:
        raise Fail("has no user_id: add it, or name the user with --user")
    return _name.validate_python(user_id), Engagement.model_validate(row)
