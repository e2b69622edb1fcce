"""Keeps claimed leases alive with heartbeats, and ends them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from mindprint import ApiError, MindprintClient, MindprintError
from mindprint.retry import is_absent
from mindprint.types import Lease
from mindprint_trainer.errors import LEASE_LOST, LEASE_REVOKED, LeaseEnded

REVOKED_CODE = "lease_revoked"
"""Error code of a lease whose data was erased: nothing of it may stay with the trainer."""
LOST_STATUSES = (404, 409)
"""Statuses of a heartbeat after which the lease has ended for this trainer, unless a proxy answered (`is_absent`)."""


class LeaseKeeper:
    """Sends a heartbeat every third of `ttl_s`, in a thread of its own.

    `lost` is set when the server refuses a heartbeat, or when none succeeded for `ttl_s` though the server answers.
    While it is away the lease may still hold: the next heartbeat tells. `revoked` is set before `lost` when the server
    has erased data of the lease.
    """

    def __init__(self, connect: Callable[[], MindprintClient], lease_id: str, ttl_s: float) -> None:
        """Prepare the thread.

        Args:
            connect: Makes a client whose calls take at most a third of `ttl_s`.
            lease_id: The lease to keep.
            ttl_s: Seconds that the lease lives after a heartbeat.
        """
        self.lost = threading.Event()
        self.revoked = threading.Event()
        self._connect = connect
        self._lease_id = lease_id
        self._ttl_s = ttl_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name=f"heartbeat of {lease_id}", daemon=True)

    def start(self) -> None:
        """Start sending heartbeats."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending heartbeats, and wait for one that is under way."""
        self._stopped.set()
        self._thread.join(self._ttl_s / 3)  # A heartbeat takes no longer than this.

    def _send_heartbeats(self) -> None:
        confirmed = time.monotonic()
        with self._connect() as client:
            while not self._stopped.wait(self._ttl_s / 3):
                sent = time.monotonic()
                try:
                    client.leases.heartbeat(self._lease_id, self._ttl_s)
                    confirmed = sent
                except MindprintError as error:
                    is_refused = isinstance(error, ApiError) and error.status in LOST_STATUSES
                    if is_absent(error):
                        continue
                    if isinstance(error, ApiError) and error.code == REVOKED_CODE:
                        self.revoked.set()
                    if is_refused or time.monotonic() - confirmed > self._ttl_s:
                        self.lost.set()
                        return


class HeldLease:
    """A lease that is kept alive from its creation on.

    It ends in one of three ways: completed, released (which does not count as an attempt), or expired (which counts as
    a failed attempt).
    """

    def __init__(self, lease: Lease, connect: Callable[[], MindprintClient], ttl_s: float) -> None:
        """Start the heartbeats of a claimed lease.

        Args:
            lease: The lease.
            connect: Makes a client whose calls take at most a third of `ttl_s`.
            ttl_s: Seconds that the lease lives after a heartbeat.
        """
        self.lease = lease
        self.version: str | None = None
        """Name of the version that the server makes of the upload, once it has stored it."""
        self.is_handed_over = False
        """Whether the server has stored the upload, and keeps the lease itself."""
        self._connect = connect
        self._keeper = LeaseKeeper(connect, lease.id, ttl_s)
        self._keeper.start()

    @property
    def is_revoked(self) -> bool:
        """Whether the server has erased data of the lease."""
        return self._keeper.revoked.is_set()

    def raise_if_lost(self) -> None:
        """Check that this trainer still holds the lease.

        Raises:
            LeaseEnded: The lease has ended, or may have ended.
        """
        if self._keeper.lost.is_set():
            raise LeaseEnded(LEASE_REVOKED if self.is_revoked else LEASE_LOST)

    def stop_heartbeat(self) -> None:
        """Stop the heartbeats. A lease that was not completed expires after its time to live."""
        self._keeper.stop()

    def release(self) -> None:
        """Put the traces back into the queue at once. It tries once; a lease that cannot be released expires."""
        self.stop_heartbeat()
        with contextlib.suppress(MindprintError), self._connect() as client:
            client.leases.release(self.lease.id)
