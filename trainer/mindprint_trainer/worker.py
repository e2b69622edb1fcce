"""The trainer's loop: claim leases, train them, upload the versions, repeat."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable

from rich.table import Table

from mindprint import ApiError, MindprintClient, MindprintError
from mindprint.private_files import make_private_folder
from mindprint.retry import is_absent
from mindprint.types import Lease
from mindprint_trainer import checkpoints
from mindprint_trainer.checkpoints import Checkpoints, task_key
from mindprint_trainer.claiming import LeaseClaimer
from mindprint_trainer.errors import BaseMismatch, LeaseEnded, TrainerError
from mindprint_trainer.failures import FailureCounter
from mindprint_trainer.lease import HeldLease
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.peft_io import ParentAdapter
from mindprint_trainer.parent_cache import ParentCache
from mindprint_trainer.reporting.dry_run import preview_table
from mindprint_trainer.reporting.experiment_loggers import ExperimentLoggers
from mindprint_trainer.reporting.progress import LeaseOutcome, ProgressReporter
from mindprint_trainer.settings import Settings
from mindprint_trainer.training import parallel
from mindprint_trainer.training.multi_adapter import Callbacks, TrainedAdapter, TrainingJob
from mindprint_trainer.training.run import StepReport, TrainingRun
from mindprint_trainer.uploader import UploadResult, VersionUploader

UPLOAD_POLL_S = 0.1
"""How often a wait for an upload calls `raise_if_stopped`."""


class Worker:
    """Works through the leases of one server.

    `outcomes` lists the results of all leases that were trained. When the process ends, `given_back` counts
    the leases that were given back, and `handed_over` those whose upload the server goes on to check. `resumes_at` has
    the step of the last checkpoint of each training that was given back, by adapter; 0 without a checkpoint.
    """

    def __init__(
        self,
        settings: Settings,
        base: Base,
        client: MindprintClient,
        connect_for_heartbeats: Callable[[], MindprintClient],
        reporter: ProgressReporter,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        """Prepare to work.

        Args:
            settings: The trainer's settings.
            base: The base model, the same that the server serves.
            client: Claims leases and uploads versions.
            connect_for_heartbeats: Makes clients for heartbeats: a call must take at most a third of the lease's
                time to live.
            reporter: Shows progress.
            raise_if_stopped: Raises when the process is to end.

        Raises:
            TrainerError: An experiment logger that the settings ask for is not installed.
        """
        self.outcomes: list[LeaseOutcome] = []
        self.given_back = self.handed_over = 0
        self.resumes_at: dict[str, int] = {}
        self._settings, self._base, self._client = settings, base, client
        self._reporter, self._raise_if_stopped = reporter, raise_if_stopped
        self._claimer = LeaseClaimer(settings, client, connect_for_heartbeats, reporter.event)
        self._failures = FailureCounter(settings, reporter.event)
        self._parents = ParentCache(client, settings.work_dir / "starts", settings.max_cached_parents)
        self._uploader = VersionUploader(settings, client, reporter.event)
        self._loggers = ExperimentLoggers(settings, reporter.event)
        self._held: list[HeldLease] = []
        """Leases in training."""
        self._is_idle = False
        """Whether it has said that it waits for traces."""

    def run(self) -> None:
        """Work until nothing is waiting, with `once`; otherwise until the process is stopped.

        Raises:
            TrainerError: The process cannot go on.
        """
        with contextlib.suppress(OSError):  # a checkpoint that cannot be written is reported then
            make_private_folder(self._settings.work_dir)
        checkpoints.remove_stale(self._settings.work_dir, self._settings.checkpoint_keep_s)
        try:
            while self._work_once():
                pass
        except TrainerError:
            # Pending uploads belong to other leases and may still succeed.
            self._await_uploads()
            raise
        finally:
            self.handed_over = self._uploader.handed_over
            self.given_back = len(self._held) + self._uploader.pending - self.handed_over
            for held in self._held:
                held.release()
            self._uploader.release_pending()
            self.resumes_at = {held.lease.adapter: self._saved_step(held.lease) for held in self._held}

    def preview(self) -> Table | None:
        """Show what the next lease would be trained on, and release it. None when nothing is waiting."""
        if (lease := self._claimer.claim()) is None:
            return None
        try:
            return preview_table(TrainingRun(self._base, lease, self._settings, None, 0))
        finally:
            self._claimer.hold(lease).release()

    def _work_once(self) -> bool:
        """Claim and train once, or wait. Return whether to go on."""
        self._raise_if_stopped()
        wait_s = self._settings.poll_s
        try:
            self._collect_uploads()
            self._claimer.fill(self._held)
            self._failures.note_answer()
            if self._held:
                self._is_idle = False
                if self._train_held():
                    return True
            elif not self._uploader.pending:
                self._failures.reset()
                if self._settings.once:
                    return False
                self._tell_idle()
        except MindprintError as error:
            wait_s = self._failures.record_call(error)
        self._wait(wait_s * random.uniform(0.5, 1.5))
        return True

    def _tell_idle(self) -> None:
        """Say once what the trainer waits for."""
        if not self._is_idle:
            adapters = " or ".join(self._settings.adapter) or "any adapter"
            self._reporter.event("waiting for traces", adapter=adapters, min_traces=self._settings.min_traces)
        self._is_idle = True

    def _wait(self, seconds: float) -> None:
        """Wait, and record the uploads that end meanwhile. A refused version ends the wait: its traces wait again."""
        until = time.monotonic() + seconds
        while self._uploader.pending and (left_s := until - time.monotonic()) > 0:
            if self._poll_upload(min(left_s, UPLOAD_POLL_S)):
                return
        if (left_s := until - time.monotonic()) > 0:
            time.sleep(left_s)

    def _train_held(self) -> bool:
        """Train the held leases, and return whether any could be trained.

        Raises:
            TrainerError: A lease could not be trained. It is raised after the others have ended.
        """
        failure: TrainerError | None = None
        jobs = {job: held for held in list(self._held) if (job := self._prepare(held)) is not None}
        callbacks = Callbacks(self._raise_if_stopped, self._report_step, self._reporter.event)
        results = parallel.train_jobs(self._base, list(jobs), self._settings, callbacks)
        with contextlib.closing(results):
            for job, result in results:
                held = jobs[job]
                self._held.remove(held)
                if isinstance(result, TrainedAdapter):
                    self._upload(held, result)
                    continue
                # Let a failed lease expire: that counts as an attempt. A released lease does not count, so trainers
                # would fail on the same traces without end.
                held.stop_heartbeat()
                if held.is_revoked:
                    self._forget(held.lease)
                self._record_outcome(held.lease, str(result))
                if not isinstance(result, LeaseEnded):
                    failure = failure or result
        if failure is not None:
            raise failure
        return bool(jobs)

    def _saved_step(self, lease: Lease) -> int:
        """Return the step of the last checkpoint of a lease's training; 0 if there is none."""
        if not self._settings.checkpoints:
            return 0
        state = Checkpoints(self._settings.work_dir, task_key(lease, self._settings)).load()
        return 0 if state is None else int(state["position"])

    def _forget(self, lease: Lease) -> None:
        """Delete what was made and downloaded under a lease whose data was erased."""
        with contextlib.suppress(OSError):
            Checkpoints(self._settings.work_dir, task_key(lease, self._settings)).drop()
        if lease.start:
            self._parents.drop(lease.start)

    def _prepare(self, held: HeldLease) -> TrainingJob | None:
        """Return the training job of a lease. After a failure, release the lease and return None."""
        lease = held.lease
        if lease.base_digest != self._base.digest:
            raise base_mismatch(lease.base_digest, self._base.digest)
        saved = Checkpoints(self._settings.work_dir, task_key(lease, self._settings))
        try:
            parent, refused = self._fetch(held)
        except LeaseEnded as ended:
            self._held.remove(held)
            held.stop_heartbeat()
            self._record_outcome(lease, str(ended))
            return None
        except (MindprintError, TrainerError, OSError) as error:
            self._held.remove(held)
            held.release()
            self._failures.record(error)
            return None
        if refused:
            self._reporter.event(
                "these traces made refused versions before: `mindprint adapters why` says why",
                adapter=lease.adapter,
                refused=refused,
            )
        checkpoints = saved if self._settings.checkpoints else None
        return TrainingJob(lease, parent, saved.failures + refused, held.raise_if_lost, checkpoints)

    def _fetch(self, held: HeldLease) -> tuple[ParentAdapter | None, int]:
        """Return the version to start from and the number of refused tries. Wait for a server that is away."""
        lease = held.lease
        while True:
            held.raise_if_lost()
            try:
                parent = self._parents.get(lease.start) if lease.start else None
                return parent, self._count_refusals(lease) if lease.attempt > 1 else 0
            except MindprintError as error:
                if not is_absent(error):
                    raise
                wait_s = self._failures.record_call(error)
            self._raise_if_stopped()
            time.sleep(wait_s)

    def _count_refusals(self, lease: Lease) -> int:
        """Count the refused versions that were trained on exactly these traces."""
        try:
            versions = self._client.adapters.get(lease.adapter).versions
        except ApiError as error:
            if error.status == 404:
                return 0
            raise
        trace_ids = sorted(lease.trace_ids)
        return sum(one.state == "refused" and sorted(one.manifest.trace_ids) == trace_ids for one in versions)

    def _upload(self, held: HeldLease, trained: TrainedAdapter) -> None:
        """Start an upload, and wait while more than `max_pending_uploads` are pending."""
        self._uploader.submit(held, trained)
        while self._uploader.pending > self._settings.max_pending_uploads:
            self._poll_upload()

    def _collect_uploads(self) -> None:
        """Record the uploads that have ended."""
        while self._uploader.pending and self._poll_upload(wait_s=0):
            pass

    def _await_uploads(self) -> None:
        """Wait for all uploads, and record them."""
        while self._uploader.pending:
            self._poll_upload()

    def _poll_upload(self, wait_s: float = UPLOAD_POLL_S) -> bool:
        """Record the next upload that ends within `wait_s`. Return whether one did."""
        self._raise_if_stopped()
        result = self._uploader.poll(wait_s)
        if result is not None:
            self._record_upload(result)
        return result is not None

    def _record_upload(self, upload: UploadResult) -> None:
        """Record how an upload ended; raise TrainerError if it cannot succeed later."""
        lease, result = upload.held.lease, upload.result
        saved = Checkpoints(self._settings.work_dir, task_key(lease, self._settings))
        with contextlib.suppress(OSError):
            if upload.is_final:
                saved.drop()
            elif upload.has_diverged:
                saved.set_aside()
        self._record_outcome(lease, str(result), upload.trained, upload.held.version if upload.is_refused else None)
        if isinstance(result, MindprintError):
            self._failures.record_call(result)
        elif isinstance(result, Exception):
            raise result
        else:
            self._failures.reset()

    def _record_outcome(
        self, lease: Lease, result: str, trained: TrainedAdapter | None = None, refused: str | None = None
    ) -> None:
        """Keep and show how a lease ended. `refused` is the name of the version that failed a check."""
        manifest = trained.manifest if trained else None
        self.outcomes.append(LeaseOutcome(lease.adapter, len(lease.trace_ids), result, manifest))
        if refused is None:
            self._reporter.event(result, adapter=lease.adapter)
        else:
            details = f"`mindprint adapters why {refused}`"
            self._reporter.event(f"refused: {result}", adapter=lease.adapter, details=details)

    def _report_step(self, report: StepReport) -> None:
        self._reporter.step(report)
        self._loggers.step(report)


def base_mismatch(server_digest: str, trainer_digest: str) -> BaseMismatch:
    """Build the error for a trainer whose base model is not the server's."""
    return BaseMismatch(
        f"the server's base model is {server_digest[:19]}, the trainer's {trainer_digest[:19]}: "
        "start `mindprint train` with the --model that `mindprint serve` runs"
    )
