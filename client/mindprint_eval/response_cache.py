"""Replies by the content of their questions: an evaluation that is interrupted or changed asks only what is new.

An append-only file: whatever was written before a kill is there afterwards, and a torn last line is ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self


def content_digest(content: Any) -> str:
    """Of anything that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class ResponseCache:
    """Use as a context manager. One writer at a time."""

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
        return self._known.get(key)

    def put(self, replies: Sequence[tuple[str, dict[str, Any]]]) -> None:
        for key, reply in replies:
            self._known[key] = reply
            self._stream.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
