"""How much interactive work may be under way at once; the rest is told to come again (invariant 9)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mindprint_server.errors import ApiError


class Admission:
    """Counts callers in and out. Batches do not come through here: they keep their own number in flight."""

    def __init__(self, limit: int, retry_after_s: int) -> None:
        self._limit = limit
        self._retry_after_s = retry_after_s
        self._inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Holds one place while the block runs. Raises ApiError (429) when there is none."""
        if self._inside >= self._limit:
            message = f"{self._limit} requests are being answered already: retry in a moment"
            raise ApiError(429, "server_busy", message, retry_after=self._retry_after_s)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
