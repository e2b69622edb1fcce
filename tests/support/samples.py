"""Small things that several test modules make."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mindprint.types import Engagement

START = datetime(2026, 1, 1, tzinfo=UTC)


def engagement(number: int, *, choices: list[str] | None = None, day: int | None = None) -> Engagement:
    """The user's `number`-th event, a day after the one before it."""
    options = ["yes", "no"] if choices is None else choices
    return Engagement(
        id=f"e{number:03d}",
        prompt=f"Would you take walk number {number}?",
        response=options[number % len(options)] if options else "I would, slowly.",
        occurred_at=START + timedelta(days=number if day is None else day),
        choices=options or None,
    )


def write_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of one small value in float32, written by hand so that tests can also break it."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\x3c" * at)
