"""Read Mindprint's own format: one engagement in JSON per line, with a `user_id` unless the caller names the user."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mindprint.importers.rows import BadImport, Rows, missing
from mindprint.streaming import first
from mindprint.types import Engagement, Name

_name = TypeAdapter[str](Name)


def read(file: Path, user: str | None = None) -> Rows:
    """Yield the engagements of a file with the ids of their users.

    Args:
        file: The file; every line must be valid.
        user: The user of rows without a `user_id`.

    Raises:
        BadImport: A line is not valid. The message names it.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(BOM_UTF8) if number == 1 else line
            if line.strip():
                try:
                    yield _parse(line, user)
                except (ValueError, RecursionError) as error:
                    reason = first(error) if isinstance(error, ValidationError) else str(error)
                    raise BadImport(f"{file}:{number}: {reason}") from error


def _parse(line: bytes, user: str | None) -> tuple[str, Engagement]:
    try:
        row: Any = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError("is no UTF-8 text") from error
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError('is no JSON object: write {"id": ..., "prompt": ..., ...}')
    row = {key: value for key, value in row.items() if not missing(value)}
    named = row.pop("user_id", None)
    if user is not None and named is not None and named != user:
        raise ValueError(f"is of user {named!r}, not {user!r}: leave out --user to import all")
    if (user_id := user or named) is None:
        raise ValueError("has no user_id: add it, or name the user with --user")
    return _name.validate_python(user_id), Engagement.model_validate(row)
