"""Ids that sort by the time they were made."""

from __future__ import annotations

import secrets
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """32 hex digits: nanoseconds since 1970, then 64 random bits. Strictly rising within a process, also if the clock
    steps back."""
    global _last
    with _lock:
        _last = max(time.time_ns(), _last + 1)
        return f"{_last:016x}{secrets.token_hex(8)}"
