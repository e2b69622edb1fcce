"""A lease that is ours, with the heartbeats that keep it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from mindprint import MindprintClient, MindprintError
from mindprint.types import Lease
from mindprint_trainer.errors import LeaseEnded
from mindprint_trainer.heart import Heart


class Held:
    """Ends in one of three ways: completed, released (which counts as nothing) or left to run out (a bad end)."""

    def __init__(self, lease: Lease, brief_client: Callable[[], MindprintClient], ttl_s: float) -> None:
        self.lease = lease
        self._brief_client = brief_client
        self._heart = Heart(brief_client, lease.id, ttl_s)
        self._heart.__enter__()

    def check(self) -> None:
        """Raises LeaseEnded."""
        if self._heart.lost.is_set():
            raise LeaseEnded

    def let_go(self) -> None:
        """No more heartbeats: unless it is over, it runs out."""
        self._heart.__exit__(None, None, None)

    def release(self) -> None:
        """Gives the traces back at once. Tries once: a lease that cannot be released runs out."""
        self.let_go()
        with contextlib.suppress(MindprintError), self._brief_client() as client:
            client.release(self.lease.id)
