"""Ids that sort by the time at which they were made."""

from __future__ import annotations

import secrets
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """Return a new id of 32 hex digits: nanoseconds since 1970, then 64 random bits.

    Ids of one process increase strictly, also if the clock steps back.
    """
    global _last
    with _lock:
        _last = max(time.time_ns(), _last + 1)
        return f"{_last:016x}{secrets.token_hex(8)}"
