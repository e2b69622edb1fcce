"""Hands finished adapters to the server while the next training runs: the server takes its time to examine them."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from mindprint import ApiError, MindprintClient
from mindprint_trainer.errors import LeaseEnded
from mindprint_trainer.lease import HeldLease
from mindprint_trainer.training.multi_adapter import TrainedAdapter

SETTLED_CODES = ("lease_lost", "canary_failed", "gate_failed")
"""Refusals after which the server has put the traces back already."""
REFUSED_CODES = ("canary_failed", "gate_failed")
"""Those that tell of the version itself: another go takes another seed."""
LEASE_LOST = "the lease was lost: nothing uploaded"


@dataclass(frozen=True)
class UploadResult:
    """How an upload ended: `result` is `version 3` or why there is none, or what went wrong with the call."""

    held: HeldLease
    trained: TrainedAdapter
    result: str | Exception
    over: bool
    """The task is over, done or refused; if not, its checkpoint is still worth something."""


class VersionUploader:
    """Uploads in threads of its own; the results are taken in the main thread."""

    def __init__(self, client: MindprintClient) -> None:
        self._client = client
        self._under_way: dict[str, HeldLease] = {}
        self._ended: queue.Queue[UploadResult] = queue.Queue()

    @property
    def busy(self) -> int:
        """Uploads whose end has not been taken yet."""
        return len(self._under_way)

    def put(self, held: HeldLease, trained: TrainedAdapter) -> None:
        self._under_way[held.lease.id] = held
        # A daemon: a process that was told to stop does not wait for a server.
        threading.Thread(
            target=self._publish, args=(held, trained), name=f"upload of {held.lease.id}", daemon=True
        ).start()

    def take(self, wait_s: float) -> UploadResult | None:
        """The next one that ended; None if none does within `wait_s`."""
        try:
            ended = self._ended.get(timeout=wait_s)
        except queue.Empty:
            return None
        del self._under_way[ended.held.lease.id]
        return ended

    def abandon(self) -> None:
        """Gives back the leases of all that is under way."""
        for held in self._under_way.values():
            held.release()

    def _publish(self, held: HeldLease, trained: TrainedAdapter) -> None:
        lease = held.lease
        result: str | Exception
        over = False
        try:
            held.check()
            version = self._client.leases.complete(
                lease.id, trained.manifest, trained.files.config, trained.files.weights
            )
            result, over = f"version {version.version}", True
        except LeaseEnded:
            result = LEASE_LOST
        except ApiError as error:
            result = error.message if error.code in SETTLED_CODES else error
            over = error.code in REFUSED_CODES
        except Exception as error:  # it is raised in the main thread
            result = error
        if isinstance(result, Exception):
            held.release()
        else:
            held.let_go()
        self._ended.put(UploadResult(held, trained, result, over))
