"""Read the entries of one large JSON array or object one after the other, without holding the file in memory.

ijson does not fit: its errors name no line, it refuses NaN, and its memory grows with the square of the nesting.
"""

from __future__ import annotations

import json
import re
from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mindprint.importers.rows import BadImport

CHUNK = 1 << 20
"""Bytes read at a time; more where a single entry is longer."""
_NEAR = 16
"""Characters at the end of what was read in which a number, a literal or an escape may be cut off."""
_SPACE = re.compile(r"[ \t\r\n]*")


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Of two values under one key, nobody knows which one counts.

    Raises:
        ValueError: A key stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {key[:40]!r} stands twice")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=unique_keys)


def entries(file: Path, *, chunk: int = CHUNK) -> Iterator[tuple[int | str, Any]]:
    """Yield (number from 1, value) of an array, or (key, value) of an object.

    Args:
        file: UTF-8, with or without a byte order mark.
        chunk: Bytes read at a time; more where a single entry is longer.

    Raises:
        BadImport: The file is no JSON array or object. The message names the line.
    """
    for _, key, value in located_entries(file, chunk=chunk):
        yield key, value


def located_entries(file: Path, *, chunk: int = CHUNK) -> Iterator[tuple[int, int | str, Any]]:
    """Yield (line, number from 1, value) of an array, or (line, key, value) of an object.

    Args:
        file: UTF-8, with or without a byte order mark.
        chunk: Bytes read at a time; more where a single entry is longer.

    Raises:
        BadImport: The file is no JSON array or object. The message names the line.
    """
    with file.open("rb") as stream:
        yield from _entries(_Cursor(file, stream, chunk))


def whole(file: Path) -> Any:
    """Return the value of a small JSON file.

    Raises:
        BadImport: The file is no JSON. The message names the line.
    """
    data = file.read_bytes()
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise BadImport(f"{file}:{line}: is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise BadImport(f"{file}:{error.lineno}: is no JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise BadImport(f"{file}: is no JSON ({error})") from error


def _entries(cursor: _Cursor) -> Iterator[tuple[int, int | str, Any]]:
    opening = cursor.peek()
    if opening not in ("[", "{"):
        raise cursor.bad("a JSON array or object is needed" if opening else "the file is empty")
    closing = "]" if opening == "[" else "}"
    cursor.at += 1
    number = 0
    while number or cursor.peek() != closing:
        number += 1
        key: int | str = number
        if opening == "{":
            if cursor.peek() != '"':
                raise cursor.bad("is no JSON (a key in double quotes is needed)")
            key = cursor.value()
            cursor.take(":")
        cursor.peek()
        line = cursor.line()
        yield line, key, cursor.value()
        if cursor.take("," + closing) == closing:
            break
    else:
        cursor.at += 1
    if cursor.peek():
        raise cursor.bad("there is more behind the end of the JSON")


class _Cursor:
    """A position in a file of which only a piece is held in memory."""

    def __init__(self, file: Path, stream: BinaryIO, chunk: int) -> None:
        self.at = 0
        self._file, self._stream, self._chunk = file, stream, chunk
        self._decoder = getincrementaldecoder("utf-8-sig")()
        self._held = ""
        self._line, self._counted = 1, 0  # the line at a place in what is held, so that no piece is counted twice

    def peek(self) -> str:
        """Return the next character that is no space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._held, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self._held):
                return self._held[self.at]
            if not self._more():
                return ""

    def take(self, allowed: str) -> str:
        char = self.peek()
        if not char or char not in allowed:
            raise self.bad(f"is no JSON ({' or '.join(allowed)} is needed)")
        self.at += 1
        return char

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._held, self.at)
            except json.JSONDecodeError as error:
                bad = self.bad(f"is no JSON ({error.msg})", error.pos)
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._held) - _NEAR
                if cut and self._more():
                    continue
                raise bad from error
            except (ValueError, RecursionError) as error:
                raise self.bad(f"is no JSON ({error})") from error
            if end > len(self._held) - _NEAR and self._more():  # a number may continue in the next chunk
                continue
            self.at = end
            return value

    def line(self) -> int:
        """Return the number of the line of the position."""
        self._line += self._held.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def bad(self, what: str, at: int | None = None) -> BadImport:
        line = self.line() + (self._held.count("\n", self.at, at) if at is not None else 0)
        return BadImport(f"{self._file}:{line}: {what}")

    def _more(self) -> bool:
        """Double what is held, so that a long entry is parsed few times. Return False at the end of the file."""
        read = self._stream.read(max(self._chunk, len(self._held) - self.at))
        try:
            piece = self._decoder.decode(read, final=not read)
        except UnicodeDecodeError as error:
            line = self.line() + self._held.count("\n", self.at) + error.object.count(b"\n", 0, error.start)
            raise BadImport(f"{self._file}:{line}: is no UTF-8 text") from error
        if not read:
            return False
        self.line()
        self._held, self.at, self._counted = self._held[self.at :] + piece, 0, 0
        return True
