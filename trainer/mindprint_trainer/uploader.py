"""Uploads finished adapters in threads while the next training runs, because the server's checks take time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mindprint import ApiError, MindprintClient, MindprintError
from mindprint.retry import is_absent
from mindprint.types import Publication, Version
from mindprint.types.keys import VersionRef
from mindprint_trainer.absence import ServerAbsence
from mindprint_trainer.errors import LeaseEnded
from mindprint_trainer.lease import REVOKED_CODE, HeldLease
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.multi_adapter import TrainedAdapter

SETTLED_CODES = (
    "lease_lost",
    "publication_conflict",
    REVOKED_CODE,
    "adapter_load",
    "parity_failed",
    "gate_failed",
    "publication_failed",
    "publication_too_slow",
)
"""Error codes after which the server has already put the traces back into the queue."""
REFUSED_CODES = ("adapter_load", "parity_failed", "gate_failed")
"""Error codes about the version itself: the next try has another seed."""
DIVERGED_CODES = ("adapter_not_finite", "adapter_norm", "invalid_manifest")
"""Error codes about values that only the training can change. The lease goes on and is left to expire, which counts as
an attempt: released, the next trainer would upload the same again and again."""
STEPS = {
    "stored": "uploaded: the server checks it",
    "loading": "check: the engine loads it",
    "parity_check": "check: parity of engine and trainer",
    "gate": "check: the gate evaluates it",
}
"""What is shown of a publication, by its state."""


@dataclass(frozen=True)
class UploadResult:
    """How an upload ended."""

    held: HeldLease
    trained: TrainedAdapter
    result: str | Exception
    """Text such as `version 3`, or why there is no version. An exception if the call failed."""
    is_final: bool
    """Whether the task is done or refused. Otherwise its checkpoint is still needed."""
    is_refused: bool = False
    """Whether the version failed a check of the server."""
    has_diverged: bool = False
    """Whether the server found values that only another training can change."""


class VersionUploader:
    """Uploads versions, each in a thread of its own. Results are polled by the thread that submits.

    Args:
        settings: How long to wait for a server that is away.
        client: Uploads.
        on_event: Called with an event, from the threads of the uploads.
    """

    def __init__(self, settings: Settings, client: MindprintClient, on_event: Callable[..., None]) -> None:
        self._settings, self._client, self._on_event = settings, client, on_event
        self._closed = threading.Event()
        self._pending: dict[str, HeldLease] = {}
        self._results: queue.Queue[UploadResult] = queue.Queue()

    @property
    def pending(self) -> int:
        """Count the uploads whose result has not been polled."""
        return len(self._pending)

    @property
    def handed_over(self) -> int:
        """Count the pending uploads that the server has stored: it goes on with them by itself."""
        return sum(held.is_handed_over for held in self._pending.values())

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
        """Release the leases of pending uploads that the server has not stored. It goes on with the others."""
        self._closed.set()
        for held in self._pending.values():
            if held.is_handed_over:
                held.stop_heartbeat()
            else:
                held.release()

    def _upload(self, held: HeldLease, trained: TrainedAdapter) -> None:
        result: str | Exception
        is_final = is_refused = has_diverged = False
        try:
            version = self._complete(held, trained)
            result, is_final = f"version {version.version}", True
        except LeaseEnded as ended:
            result = str(ended)
        except ApiError as error:
            result = error.message if error.code in SETTLED_CODES else error
            is_refused = error.code in REFUSED_CODES
            # After an erasure nothing of the training may stay.
            is_final = is_refused or error.code == REVOKED_CODE
            has_diverged = error.code in DIVERGED_CODES
        except Exception as error:  # It is raised again in the thread that polls.
            result = error
        if isinstance(result, Exception) and not has_diverged:
            held.release()
        else:
            held.stop_heartbeat()
        self._results.put(UploadResult(held, trained, result, is_final, is_refused, has_diverged))

    def _complete(self, held: HeldLease, trained: TrainedAdapter) -> Version:
        """Upload a version, and wait for a server that is away: the same upload again has the same result."""
        lease, files = held.lease, trained.files
        absence = ServerAbsence(self._settings, partial(self._on_event, adapter=lease.adapter))
        while True:
            # Of a stored upload only the server knows how it ended: a heartbeat is refused once it is published, too.
            if not held.is_handed_over:
                held.raise_if_lost()
            try:
                version = self._client.leases.complete(
                    lease.id,
                    trained.manifest,
                    files.config,
                    files.weights,
                    on_progress=partial(self._report, held, absence),
                    poll_s=self._settings.poll_s,
                )
            except MindprintError as error:
                if not is_absent(error) or self._closed.wait(absence.record(error)):
                    raise
            else:
                absence.end()
                return version

    def _report(self, held: HeldLease, absence: ServerAbsence, publication: Publication) -> None:
        """Show what the server does with an upload. Once it is stored, the lease needs this trainer no longer."""
        absence.end()
        if not held.is_handed_over:
            held.is_handed_over = True
            held.version = VersionRef.of(publication.adapter, publication.version)
            held.stop_heartbeat()  # the server holds the lease, and refuses a heartbeat once the version is published
        if publication.state in STEPS:
            self._on_event(STEPS[publication.state], adapter=publication.adapter, version=publication.version)
