"""Lease, train, upload, repeat."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from mindprint import ApiError, MindprintClient, MindprintError
from mindprint.types import Lease, LeaseRequest, Manifest
from mindprint_trainer import lora
from mindprint_trainer.base import Base
from mindprint_trainer.errors import BaseMismatch, LeaseEnded, TrainerError
from mindprint_trainer.heart import Heart
from mindprint_trainer.loop import train
from mindprint_trainer.settings import Settings
from mindprint_trainer.view import Outcome, View

TRANSIENT = (408, 429)
"""Statuses below 500 that may pass."""
PREFIX = "adapter-"


class Worker:
    """Works through the leases of one server. `outcomes` lists how those ended that got as far as training.

    `brief_client` makes clients for calls that must not take long; `check` raises when the process is to stop.
    """

    def __init__(
        self,
        settings: Settings,
        base: Base,
        client: MindprintClient,
        brief_client: Callable[[], MindprintClient],
        view: View,
        check: Callable[[], None],
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._settings = settings
        self._base = base
        self._client = client
        self._brief_client = brief_client
        self._view = view
        self._check = check
        self._failures = 0

    def run(self) -> None:
        """Returns once nothing is waiting, with `once`; else never. Raises TrainerError when it cannot go on."""
        sweep(self._settings.work_dir, self._settings.stale_after_s)
        while True:
            self._check()
            try:
                lease = self._claim()
                if lease is not None:
                    self._work(lease)
                    self._failures = 0
            except MindprintError as error:
                self._failed(error)
            else:
                if lease is not None:
                    continue
                self._failures = 0
                if self._settings.once:
                    return
            time.sleep(self._settings.poll_s * random.uniform(0.5, 1.5))

    def _claim(self) -> Lease | None:
        return self._client.claim(
            LeaseRequest(
                owner=self._settings.owner,
                adapter=self._settings.adapter,
                ttl_s=self._settings.ttl_s,
                min_traces=self._settings.min_traces,
                max_traces=self._settings.max_traces,
            )
        )

    def _work(self, lease: Lease) -> None:
        """One lease to its end. Whatever goes wrong, it is released and no file stays behind."""
        self._view.say("leased", adapter=lease.adapter, traces=len(lease.trace_ids), attempt=lease.attempt)
        manifest: Manifest | None = None
        with (
            Heart(self._brief_client, lease.id, self._settings.ttl_s) as heart,
            scratch(self._settings.work_dir) as folder,
        ):

            def check() -> None:
                self._check()
                if heart.lost.is_set():
                    raise LeaseEnded

            try:
                if lease.base_digest != self._base.digest:
                    raise mismatch(lease.base_digest, self._base.digest)
                manifest = train(self._base, lease, self._settings, folder, check, self._view.step)
                check()
                version = self._client.complete(lease.id, manifest, folder / lora.CONFIG, folder / lora.WEIGHTS)
                result = f"version {version.version}"
            except LeaseEnded:
                result = "the lease was lost: nothing uploaded"
            except ApiError as error:
                if error.code not in ("lease_lost", "canary_failed"):
                    self._release(lease)
                    raise
                result = error.message  # the server has put the traces back already
            except BaseException:
                self._release(lease)
                raise
        self.outcomes.append(Outcome(lease.adapter, len(lease.trace_ids), result, manifest))
        self._view.say(result, adapter=lease.adapter)

    def _release(self, lease: Lease) -> None:
        """Tries once: a lease that cannot be released runs out by itself."""
        with contextlib.suppress(MindprintError), self._brief_client() as client:
            client.release(lease.id)

    def _failed(self, error: MindprintError) -> None:
        """Counts a call that may go through later. Raises TrainerError for one that will not, or for too many."""
        self._failures += 1
        hopeless = isinstance(error, ApiError) and error.status < 500 and error.status not in TRANSIENT
        if hopeless or self._failures >= self._settings.max_failures:
            raise TrainerError(str(error)) from error
        self._view.say("the server failed a call", error=str(error), failures=self._failures)


@contextlib.contextmanager
def scratch(work_dir: Path) -> Iterator[Path]:
    """A path for a new folder in `work_dir`; whatever lies there at the end is removed."""
    folder = work_dir / f"{PREFIX}{uuid.uuid4().hex}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(work_dir: Path, stale_s: float) -> None:
    """Removes what killed trainers left. A living one needs its folder for seconds only."""
    for folder in work_dir.glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another trainer may sweep too
            if time.time() - folder.stat().st_mtime > stale_s:
                shutil.rmtree(folder, ignore_errors=True)


def mismatch(server: str, ours: str) -> BaseMismatch:
    return BaseMismatch(
        f"the server's base model is {server[:19]}, the trainer's {ours[:19]}: "
        "start `mindprint train` with the --model that `mindprint serve` runs"
    )
