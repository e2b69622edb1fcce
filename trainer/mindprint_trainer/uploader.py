"""Uploads finished adapters in threads while the next training runs, because the server's checks take time."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from mindprint import ApiError, MindprintClient
from mindprint_trainer.errors import LeaseEnded
from mindprint_trainer.lease import HeldLease
from mindprint_trainer.training.multi_adapter import TrainedAdapter

SETTLED_CODES = ("lease_lost", "adapter_load", "parity_failed", "gate_failed")
"""Error codes after which the server has already put the traces back into the queue."""
REFUSED_CODES = ("adapter_load", "parity_failed", "gate_failed")
"""Error codes about the version itself: the next try has another seed."""
DIVERGED_CODES = ("adapter_not_finite", "adapter_norm", "invalid_manifest")
"""Error codes about values that only the training can change. The lease goes on and is left to expire, which counts as
an attempt: released, the next trainer would upload the same again and again."""
LEASE_LOST = "the lease was lost: nothing uploaded"


@dataclass(frozen=True)
class UploadResult:
    """How an upload ended."""

    held: HeldLease
    trained: TrainedAdapter
    result: str | Exception
    """Text such as `version 3`, or why there is no version. An exception if the call failed."""
    is_final: bool
    """Whether the task is done or refused. Otherwise its checkpoint is still needed."""
    has_diverged: bool = False
    """Whether the server found values that only another training can change."""


class VersionUploader:
    """Uploads versions, each in a thread of its own. Results are polled by the thread that submits."""

    def __init__(self, client: MindprintClient) -> None:
        self._client = client
        self._pending: dict[str, HeldLease] = {}
        self._results: queue.Queue[UploadResult] = queue.Queue()

    @property
    def pending(self) -> int:
        """Count the uploads whose result has not been polled."""
        return len(self._pending)

    def submit(self, held: HeldLease, trained: TrainedAdapter) -> None:
        """Start the upload of a finished adapter.

        Args:
            held: The lease of the adapter. The uploader completes it, releases it if the call fails, or leaves
                it to expire if the training diverged.
            trained: The adapter's manifest and files.
        """
        self._pending[held.lease.id] = held
        # A daemon thread: a process that is told to stop does not wait for a server.
        threading.Thread(
            target=self._upload, args=(held, trained), name=f"upload of {held.lease.id}", daemon=True
        ).start()

    def poll(self, wait_s: float) -> UploadResult | None:
        """Return the next upload that ended. None if none ends within `wait_s` seconds."""
        try:
            result = self._results.get(timeout=wait_s)
        except queue.Empty:
            return None
        del self._pending[result.held.lease.id]
        return result

    def release_pending(self) -> None:
        """Release the leases of all pending uploads."""
        for held in self._pending.values():
            held.release()

    def _upload(self, held: HeldLease, trained: TrainedAdapter) -> None:
        lease, files = held.lease, trained.files
        result: str | Exception
        is_final = has_diverged = False
        try:
            held.raise_if_lost()
            version = self._client.leases.complete(lease.id, trained.manifest, files.config, files.weights)
            result, is_final = f"version {version.version}", True
        except LeaseEnded:
            result = LEASE_LOST
        except ApiError as error:
            result = error.message if error.code in SETTLED_CODES else error
            is_final = error.code in REFUSED_CODES
            has_diverged = error.code in DIVERGED_CODES
        except Exception as error:  # It is raised again in the thread that polls.
            result = error
        if isinstance(result, Exception) and not has_diverged:
            held.release()
        else:
            held.stop_heartbeat()
        self._results.put(UploadResult(held, trained, result, is_final, has_diverged))
