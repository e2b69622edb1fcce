"""Lease, train, upload, repeat; with some settings several adapters at once."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable

from rich.table import Table

from mindprint import ApiError, MindprintClient, MindprintError
from mindprint.types import Lease, LeaseRequest
from mindprint_trainer import checkpoints
from mindprint_trainer.checkpoints import Checkpoints, task_key
from mindprint_trainer.errors import BaseMismatch, LeaseEnded, TrainerError
from mindprint_trainer.lease import HeldLease
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.parent_cache import ParentCache
from mindprint_trainer.reporting.dry_run import preview_table
from mindprint_trainer.reporting.experiment_loggers import ExperimentLoggers
from mindprint_trainer.reporting.progress import LeaseOutcome, ProgressReporter
from mindprint_trainer.settings import Settings
from mindprint_trainer.training import parallel
from mindprint_trainer.training.multi_adapter import Callbacks, TrainedAdapter, TrainingJob
from mindprint_trainer.training.run import StepReport, TrainingRun
from mindprint_trainer.uploader import LEASE_LOST, UploadResult, VersionUploader

TRANSIENT_STATUSES = (408, 429)
"""Statuses below 500 that may pass."""
UPLOAD_POLL_S = 0.1
"""How often a wait for an upload looks at signals."""


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
        view: ProgressReporter,
        check: Callable[[], None],
    ) -> None:
        self.outcomes: list[LeaseOutcome] = []
        self._settings, self._base, self._view, self._check = settings, base, view, check
        self._client, self._brief_client = client, brief_client
        self._starts = ParentCache(client, settings.work_dir / "starts", settings.kept_starts)
        self._publisher = VersionUploader(client)
        self._boards = ExperimentLoggers(settings, view.say)
        self._held: list[HeldLease] = []
        """Leases in training."""
        self._failures = 0

    def run(self) -> None:
        """Returns once nothing is waiting, with `once`; else never. Raises TrainerError when it cannot go on."""
        checkpoints.remove_stale(self._settings.work_dir, self._settings.checkpoint_keep_s)
        try:
            while self._turn():
                pass
        except TrainerError:
            self._settle(every=True)  # what is on its way has no part in it
            raise
        finally:
            for held in self._held:
                held.release()
            self._publisher.abandon()

    def preview(self) -> Table | None:
        """What the next lease would be trained on; None when nothing is waiting. The lease is given back at once."""
        if (lease := self._claim()) is None:
            return None
        try:
            return preview_table(TrainingRun(self._base, lease, self._settings, None, 0))
        finally:
            HeldLease(lease, self._brief_client, self._settings.ttl_s).release()

    def _turn(self) -> bool:
        """Claims and trains once, or waits. Returns whether to go on."""
        self._check()
        try:
            self._settle(every=False)
            self._claim_all()
            if self._held:
                if self._work():
                    return True
            elif self._publisher.busy:  # a refused version's traces wait again
                self._take()
                return True
            else:
                self._failures = 0
                if self._settings.once:
                    return False
        except MindprintError as error:
            self._failed(error)
        time.sleep(self._settings.poll_s * random.uniform(0.5, 1.5))
        return True

    def _claim(self) -> Lease | None:
        """Of the adapters that are asked for the first that has enough waiting; without any, whichever waits most."""
        for adapter in self._settings.adapter or (None,):
            request = LeaseRequest(
                owner=self._settings.owner,
                adapter=adapter,
                ttl_s=self._settings.ttl_s,
                min_traces=self._settings.min_traces,
                max_traces=self._settings.max_traces,
            )
            if (lease := self._client.leases.claim(request)) is not None:
                return lease
        return None

    def _claim_all(self) -> None:
        while len(self._held) < self._settings.together:
            try:
                lease = self._claim()
            except MindprintError:
                if self._held:  # the next claim will tell
                    return
                raise
            if lease is None:
                return
            self._held.append(HeldLease(lease, self._brief_client, self._settings.ttl_s))
            self._view.say("leased", adapter=lease.adapter, traces=len(lease.trace_ids), attempt=lease.attempt)

    def _work(self) -> bool:
        """Trains the leases that are held; returns whether any could be. Raises what one met, once all have ended."""
        failure: TrainerError | None = None
        jobs = {job: held for held in list(self._held) if (job := self._prepare(held)) is not None}
        hooks = Callbacks(self._check, self._told, self._view.say)
        with contextlib.closing(parallel.train_jobs(self._base, list(jobs), self._settings, hooks)) as results:
            for job, result in results:
                held = jobs[job]
                self._held.remove(held)
                if isinstance(result, TrainedAdapter):
                    self._publish(held, result)
                elif isinstance(result, LeaseEnded):
                    held.let_go()
                    self._ended(held.lease, LEASE_LOST)
                else:
                    # It runs out and so counts as a bad end: given back, the next trainer would meet it again for ever.
                    held.let_go()
                    self._ended(held.lease, str(result))
                    failure = failure or result
        if failure is not None:
            raise failure
        return bool(jobs)

    def _prepare(self, held: HeldLease) -> TrainingJob | None:
        """What the training needs; None when that cannot be had now, which counts as a failed call."""
        lease = held.lease
        if lease.base_digest != self._base.digest:
            raise base_mismatch(lease.base_digest, self._base.digest)
        kept = Checkpoints(self._settings.work_dir, task_key(lease, self._settings))
        try:
            parent = self._starts.get(lease.start) if lease.start else None
            tries = kept.failures + (self._refusals(lease) if lease.attempt > 1 else 0)
        except (MindprintError, TrainerError, OSError) as error:
            self._held.remove(held)
            held.release()
            self._count(error)
            return None
        return TrainingJob(lease, parent, tries, held.check, kept if self._settings.checkpoints else None)

    def _refusals(self, lease: Lease) -> int:
        """How many versions that were trained on these very traces the server has refused."""
        try:
            versions = self._client.adapters.get(lease.adapter).versions
        except ApiError as error:
            if error.status == 404:
                return 0
            raise
        wanted = sorted(lease.trace_ids)
        return sum(one.state == "refused" and sorted(one.manifest.trace_ids) == wanted for one in versions)

    def _publish(self, held: HeldLease, trained: TrainedAdapter) -> None:
        self._publisher.put(held, trained)
        while self._publisher.busy > self._settings.publishing:
            self._take()

    def _settle(self, *, every: bool) -> None:
        """Takes the uploads that have ended, or `every` one."""
        while self._publisher.busy:
            if not self._take(0 if not every else UPLOAD_POLL_S) and not every:
                return

    def _take(self, wait_s: float = UPLOAD_POLL_S) -> bool:
        self._check()
        ended = self._publisher.take(wait_s)
        if ended is not None:
            self._published(ended)
        return ended is not None

    def _published(self, ended: UploadResult) -> None:
        """Raises TrainerError when the upload failed for good."""
        lease, error = ended.held.lease, ended.result
        if ended.over:
            with contextlib.suppress(OSError):
                Checkpoints(self._settings.work_dir, task_key(lease, self._settings)).drop()
        self._ended(lease, str(error), ended.trained)
        if isinstance(error, MindprintError):
            self._failed(error)
        elif isinstance(error, Exception):
            raise error
        else:
            self._failures = 0

    def _ended(self, lease: Lease, result: str, trained: TrainedAdapter | None = None) -> None:
        self.outcomes.append(
            LeaseOutcome(lease.adapter, len(lease.trace_ids), result, trained.manifest if trained else None)
        )
        self._view.say(result, adapter=lease.adapter)

    def _told(self, report: StepReport) -> None:
        self._view.step(report)
        self._boards.step(report)

    def _failed(self, error: MindprintError) -> None:
        """Counts a call that may go through later. Raises TrainerError for one that will not."""
        if isinstance(error, ApiError) and error.status < 500 and error.status not in TRANSIENT_STATUSES:
            raise TrainerError(str(error)) from error
        self._count(error)

    def _count(self, error: Exception) -> None:
        """Raises TrainerError for too many failures in a row."""
        self._failures += 1
        if self._failures >= self._settings.max_failures:
            raise TrainerError(str(error)) from error
        self._view.say("the server failed a call", error=str(error), failures=self._failures)


def base_mismatch(server: str, ours: str) -> BaseMismatch:
    return BaseMismatch(
        f"the server's base model is {server[:19]}, the trainer's {ours[:19]}: "
        "start `mindprint train` with the --model that `mindprint serve` runs"
    )
