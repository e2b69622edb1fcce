"""Read tables of delimited text (CSV, TSV) row by row. A row that cannot be read is counted, and the next one follows.

After a row that is no CSV, reading goes on at the line after its first one. So a quote that is never closed costs one
line, not the rest of the file.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mindprint.importers.rows import BadImport, Skips

MAX_RECORD = 1 << 20
"""Characters of one row. A row that is longer is faulty."""
_DELIMITERS = ",\t;|"
_NAMED_DELIMITER = re.compile(r'"?sep=([,\t;|])"?')
"""A line before the names of the columns, by which spreadsheets say what separates."""
_QUOTED = re.compile(r'"(?:[^"]|"")*(?:"|$)')
_PEEKED = 1 << 16
"""Bytes that are looked at to tell how a file is written."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NO_UTF8 = re.compile("[\udc80-\udcff]")
NO_CSV = "row is no CSV"


@dataclass(frozen=True)
class Record:
    """A row of a table: its file and line, and its cells by the names of their columns, stripped."""

    where: str
    cells: dict[str, str]


def records(file: Path, skips: Skips, needed: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the rows of a table whose first line names the columns.

    Args:
        file: UTF-8 with or without a byte order mark, or UTF-16 with one. Commas, tabs, semicolons or bars separate.
        skips: Counts the rows that cannot be read.
        needed: Columns that must be there, in lower case. With them, the names of all columns are in lower case, with
            `-` for `_` and spaces.

    Raises:
        BadImport: The first line cannot be read, or lacks a column.
    """
    with _open(file) as stream:
        rows = _rows(stream)
        columns = _columns(file, next(rows, None), needed)
        for number, cells in rows:
            where = f"{file}:{number}"
            if isinstance(cells, str):
                skips.reject(NO_CSV, where, f"is no CSV ({cells})")
            elif len(cells) != len(columns):
                found = f"{len(cells)} {'field' if len(cells) == 1 else 'fields'}"
                skips.reject("row has another number of fields", where, f"has {found} instead of {len(columns)}")
            elif _NO_UTF8.search("".join(cells)):
                skips.reject("row is no UTF-8 text", where, "is no UTF-8 text")
            else:
                yield Record(where, dict(zip(columns, cells, strict=True)))


def header(file: Path) -> list[str]:
    """Return the names of a table's columns; none if it is empty.

    Raises:
        BadImport: The first line cannot be read.
    """
    with _open(file) as stream:
        return _columns(file, next(_rows(stream), None), ())


def _open(file: Path) -> TextIO:
    with file.open("rb") as stream:
        begin = stream.read(_PEEKED)
    encoding = "utf-16" if begin[:2] in _UTF16 else "utf-8-sig"
    # Old spreadsheets end lines with a carriage return alone.
    newline = "\r" if b"\r" in begin and b"\n" not in begin else "\n"
    return file.open(encoding=encoding, errors="surrogateescape", newline=newline)


def _columns(file: Path, head: tuple[int, list[str] | str] | None, needed: Sequence[str]) -> list[str]:
    cells = head[1] if head else []
    if isinstance(cells, str):
        raise BadImport(f"{file}:{head[0] if head else 1}: is no CSV ({cells})")
    if _NO_UTF8.search("".join(cells)) or "\0" in "".join(cells):  # UTF-16 without a mark has NUL characters
        raise BadImport(f"{file}:1: is no UTF-8 text: save it as UTF-8")
    columns = [re.sub("[ _]", "-", cell.lower()) for cell in cells] if needed else cells
    if lacking := [name for name in needed if name not in columns]:
        named = ", ".join(repr(name)[1:-1] for name in columns[:12]) or "nothing"
        raise BadImport(f"{file}:1: lacks the column {lacking[0]}; found {named}")
    if doubled := next((name for name in columns if name and columns.count(name) > 1), None):
        raise BadImport(f"{file}:1: has two columns {doubled!r}: rename one")
    return columns


def _rows(stream: TextIO) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the number of each row's first line, and its cells, or what is wrong with it."""
    head = next(stream, "")
    if named := _NAMED_DELIMITER.fullmatch(head.strip()):
        delimiter = named[1]
    else:
        delimiter = _delimiter(head)
        stream.seek(0)
    lines = _Lines(stream, number=2 if named else 1)
    width: int | None = None
    bound = csv.field_size_limit()
    while lines.begin():
        try:
            csv.field_size_limit(MAX_RECORD)
            cells = [cell.strip() for cell in next(csv.reader(lines, strict=True, delimiter=delimiter))]
        except csv.Error as error:
            yield lines.number, str(error)
            lines.drop(1)
            continue
        finally:
            csv.field_size_limit(bound)
        number, taken = lines.number, lines.taken
        # A trailing delimiter adds nothing.
        while width is not None and len(cells) > width and not cells[-1]:
            cells.pop()
        if width is not None and len(cells) != width and taken > 1:
            yield number, f"has {len(cells)} fields instead of {width}, from a quote that may not be closed"
            lines.drop(1)
            continue
        lines.drop(taken)
        if any(cells):
            width = width or len(cells)
            yield number, cells


def _delimiter(head: str) -> str:
    """Return the delimiter that a first line has most often outside of quotes: names of columns may be whole texts."""
    bare = _QUOTED.sub("", head)
    return max(_DELIMITERS, key=bare.count) if bare.strip() else ","


class _Lines(Iterator[str]):
    """The lines of a file, of which those of the current row can be read again."""

    def __init__(self, stream: Iterator[str], *, number: int) -> None:
        self.number = number
        self.taken = 0
        self._stream = stream
        self._held: deque[str] = deque()
        self._size = 0

    def begin(self) -> bool:
        """Start at the first line that was not dropped. Return False at the end of the file."""
        self.taken = self._size = 0
        if not self._held and (line := next(self._stream, None)) is not None:
            self._held.append(line)
        return bool(self._held)

    def drop(self, count: int) -> None:
        for _ in range(count):
            self._held.popleft()
        self.number += count

    def __next__(self) -> str:
        if self._size > MAX_RECORD:
            raise csv.Error(f"longer than {MAX_RECORD} characters, from a quote that may not be closed")
        if self.taken == len(self._held):
            self._held.append(next(self._stream))
        line = self._held[self.taken]
        self.taken += 1
        self._size += len(line)
        return line
