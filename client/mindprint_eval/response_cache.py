"""Cache of responses by the content of their requests: an evaluation that goes on sends only new requests.

The file is append-only. Entries written before a kill stay; an incomplete last line is ignored and removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self


def content_digest(content: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class ResponseCache:
    """A file of responses by request key. Use it as a context manager, with one writer at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        torn = False
        if self._path.exists():
            for line in self._path.read_bytes().splitlines(keepends=True):
                torn = not line.endswith(b"\n")
                if not torn:
                    entry = json.loads(line)
                    self._known[entry["key"]] = entry["reply"]
        self._stream = self._path.open("ab")
        if torn:
            self._stream.truncate(self._stream.tell() - len(line))
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Return the response with this key, or None."""
        return self._known.get(key)

    def add(self, key: str, response: dict[str, Any]) -> None:
        """Store a response, and write it to the file at once."""
        self._known[key] = response
        self._stream.write(json.dumps({"key": key, "reply": response}, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
