"""Keeps a lease alive from a thread of its own while the training runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mindprint import ApiError, MindprintClient, MindprintError
from mindprint.types import Lease
from mindprint_trainer.errors import LeaseEnded

LOST_STATUSES = (404, 409)
"""Statuses with which the server says that the lease is no longer ours."""


class LeaseKeeper:
    """Sends a heartbeat every third of `ttl_s`. `lost` is set when the lease is over, or must be by now."""

    def __init__(self, connect: Callable[[], MindprintClient], lease_id: str, ttl_s: float) -> None:
        self.lost = threading.Event()
        self._connect = connect
        self._lease_id = lease_id
        self._ttl_s = ttl_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heart of {lease_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(self._ttl_s / 3)  # no call of its takes longer

    def _beat(self) -> None:
        heard = time.monotonic()
        with self._connect() as client:
            while not self._done.wait(self._ttl_s / 3):
                sent = time.monotonic()
                try:
                    client.leases.heartbeat(self._lease_id, self._ttl_s)
                    heard = sent
                except MindprintError as error:
                    refused = isinstance(error, ApiError) and error.status in LOST_STATUSES
                    # Another failure may pass, and the next beat get through, as long as the deadline has not.
                    if refused or time.monotonic() - heard > self._ttl_s:
                        self.lost.set()
                        return


class HeldLease:
    """Ends in one of three ways: completed, released (which counts as nothing) or left to run out (a bad end)."""

    def __init__(self, lease: Lease, brief_client: Callable[[], MindprintClient], ttl_s: float) -> None:
        self.lease = lease
        self._brief_client = brief_client
        self._heart = LeaseKeeper(brief_client, lease.id, ttl_s)
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
            client.leases.release(self.lease.id)
