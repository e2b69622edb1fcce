"""Read rows of JSON Lines, or of one JSON array. A line that cannot be read is counted, and the next one follows."""

from __future__ import annotations

import itertools
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindprint.importers.json_stream import located_entries, unique_keys
from mindprint.importers.rows import BadImport, Skips

MAX_LINE = 1 << 26
"""Bytes of one line. A line that is longer is faulty."""
NO_JSON = "line is no JSON object"
_PEEKED_LINES = 20
"""Lines that are looked at to tell what a file holds."""


@dataclass(frozen=True)
class JsonRow:
    """A row of a file: its file and line, its number from 1, and its values by key."""

    where: str
    number: int
    data: dict[str, Any]


def json_rows(file: Path, skips: Skips) -> Iterator[JsonRow]:
    """Yield the objects of a file of JSON Lines, or of a JSON array.

    Args:
        file: UTF-8, with or without a byte order mark.
        skips: Counts the rows that cannot be read.

    Raises:
        BadImport: The file is a JSON array and breaks off, or holds no JSON at all.
    """
    if begins_with(file, b"["):
        for place, key, value in located_entries(file):
            if isinstance(value, dict):
                yield JsonRow(f"{file}:{place}", int(key), value)
            else:
                skips.reject("row is no JSON object", f"{file}:{place}", f"is a {type(value).__name__}, no JSON object")
        return
    if not _may_hold_objects(file):
        raise BadImport(
            f"{file}: does not look like JSON Lines, none of its first lines begins with {{: write one JSON "
            "object a line; a table is named .csv or .tsv, and read without --format"
        )
    for number, line in json_lines(file):
        where = f"{file}:{number}"
        try:
            yield JsonRow(where, number, parse_line(line))
        except ValueError as error:
            skips.reject(NO_JSON, where, str(error))


def json_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, with their numbers. Of a line above the bound, yield its begin."""
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            rest = line
            while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
                rest = stream.readline(MAX_LINE + 1)
            line = line.removeprefix(BOM_UTF8) if number == 1 else line
            if line.strip():
                yield number, line


def parse_line(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises:
        ValueError: The line holds something else. The message says what is wrong.
    """
    if len(line) > MAX_LINE:
        raise ValueError(f"is longer than {MAX_LINE} bytes")
    try:
        row: Any = json.loads(line, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise ValueError("is no UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError('is no JSON object: write {"id": ..., "prompt": ..., ...}')
    return row


def first_row(file: Path) -> dict[str, Any] | None:
    """Return the first object among the first lines of a file; None if there is none."""
    for place, (_, line) in enumerate(json_lines(file)):
        if place == _PEEKED_LINES:
            break
        try:
            return parse_line(line)
        except ValueError:
            continue
    return None


def _may_hold_objects(file: Path) -> bool:
    """Return whether one of the first lines begins like an object, or there is none."""
    begins = [line[:64].lstrip()[:1] for _, line in itertools.islice(json_lines(file), _PEEKED_LINES)]
    return not begins or any(begin in (b"{", b"") for begin in begins)


def begins_with(file: Path, mark: bytes) -> bool:
    """Return whether a file begins with these bytes, after a byte order mark and spaces."""
    with file.open("rb") as stream:
        return stream.read(64).removeprefix(BOM_UTF8).lstrip().startswith(mark)
