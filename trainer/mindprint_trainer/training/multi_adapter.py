"""Training jobs: each turns a lease into an adapter's files and manifest. Several jobs share forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers

import mindprint
from mindprint.types import Lease, Manifest
from mindprint_trainer import parity
from mindprint_trainer.checkpoints import Checkpoints
from mindprint_trainer.data.packing import PackedRow, forward_passes
from mindprint_trainer.errors import CannotTrain, LeaseEnded, NotFinite
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective.batch import collate
from mindprint_trainer.objective.loss import backward
from mindprint_trainer.objective.soft_labels import SoftLabels, Teacher
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.run import StepReport, TrainingRun


def do_nothing(*_: Any, **__: Any) -> None:
    """Ignore all arguments: the default of callbacks."""


@dataclass(frozen=True)
class TrainedAdapter:
    """A finished adapter, ready for upload."""

    manifest: Manifest
    files: peft_io.AdapterFiles


JobResult = TrainedAdapter | CannotTrain | NotFinite | LeaseEnded
"""How a job ended."""


@dataclass(eq=False)
class TrainingJob:
    """A lease, and what its training needs besides the base model and the settings."""

    lease: Lease
    parent: peft_io.ParentAdapter | None = None
    """The version to start from; None starts from a new adapter."""
    tries: int = 0
    """Number of failed tries of these traces. Each try has another seed: with the same one it would fail again."""
    raise_if_lost: Callable[[], None] = do_nothing
    """Called before each forward pass. Raises LeaseEnded when the lease is lost; other jobs go on."""
    checkpoints: Checkpoints | None = None
    """Where to save the state; None saves none."""


@dataclass(frozen=True)
class Callbacks:
    """Functions of the caller that the training calls."""

    raise_if_stopped: Callable[[], None] = do_nothing
    """Called before each forward pass. Raises when all jobs must end."""
    on_step: Callable[[StepReport], None] = do_nothing
    """Called after each optimizer step of each job."""
    on_event: Callable[..., None] = do_nothing
    """Called as `on_event(event, **fields)` for each line of the log."""


NO_CALLBACKS = Callbacks()


def train_adapter(base: Base, lease: Lease, settings: Settings, callbacks: Callbacks = NO_CALLBACKS) -> TrainedAdapter:
    """Train one adapter on the samples of a lease.

    Args:
        base: The base model.
        lease: The samples.
        settings: The trainer's settings.
        callbacks: Progress and interruption; whatever they raise ends the training.

    Raises:
        CannotTrain: The lease holds nothing that can be trained on.
        NotFinite: The loss became NaN or infinite.
    """
    (trained,) = train_adapters(base, [lease], settings, callbacks)
    return trained


def train_adapters(
    base: Base, leases: Sequence[Lease], settings: Settings, callbacks: Callbacks = NO_CALLBACKS
) -> list[TrainedAdapter]:
    """Train an adapter for each lease in shared forward passes.

    Args:
        base: The base model.
        leases: One lease an adapter.
        settings: The trainer's settings.
        callbacks: Progress and interruption; whatever they raise ends the training.

    Returns:
        The adapters in the order of the leases.

    Raises:
        CannotTrain: A lease holds nothing that can be trained on.
        NotFinite: A loss became NaN or infinite.
    """
    jobs = [TrainingJob(lease) for lease in leases]
    trained: dict[TrainingJob, TrainedAdapter] = {}
    for job, result in train_in_shared_passes(base, jobs, settings, callbacks):
        if isinstance(result, Exception):
            raise result
        trained[job] = result
    return [trained[job] for job in jobs]


def train_in_shared_passes(
    base: Base, jobs: Sequence[TrainingJob], settings: Settings, callbacks: Callbacks = NO_CALLBACKS
) -> Iterator[tuple[TrainingJob, JobResult]]:
    """Train all jobs in shared forward passes, and yield each job with its result when it ends.

    A job that fails does not change the others. The base model is not changed.

    Args:
        base: The base model.
        jobs: One job an adapter.
        settings: The trainer's settings.
        callbacks: Progress and interruption; whatever they raise ends all jobs.
    """
    active: list[ActiveRun] = []
    for job in jobs:
        try:
            active.append(ActiveRun(job, open_run(base, job, settings, callbacks)))
        except CannotTrain as error:
            yield job, error
    if not active:
        return
    trainer = MultiAdapterTrainer(base, active, settings, callbacks)
    trainer.prepare()
    while active:
        for one in active:
            if one.result is None and one.run.is_done:
                trainer.finish(one)
        for one in [one for one in active if one.result is not None]:
            active.remove(one)
            assert one.result is not None
            yield one.job, one.result
        if active:
            trainer.step()


def open_run(base: Base, job: TrainingJob, settings: Settings, callbacks: Callbacks = NO_CALLBACKS) -> TrainingRun:
    """Create a job's training run, and continue from its checkpoint if there is one of the same try.

    Args:
        base: The base model.
        job: The job.
        settings: The trainer's settings.
        callbacks: Gets an event when the run continues from a checkpoint.

    Raises:
        CannotTrain: The lease holds nothing that can be trained on.
    """
    run = TrainingRun(base, job.lease, settings, job.parent, job.tries)
    state = job.checkpoints.load() if job.checkpoints else None
    if state is not None and state["tries"] == job.tries:
        run.load_state_dict(state)
        callbacks.on_event("goes on", adapter=job.lease.adapter, step=f"{run.position}/{len(run.plan)}")
    return run


@dataclass(eq=False)
class ActiveRun:
    """A job in training."""

    job: TrainingJob
    run: TrainingRun
    result: JobResult | None = None
    """How it ended; None while it runs."""


class MultiAdapterTrainer:
    """Steps of several training runs over one base model.

    The caller removes ended runs from `active`. A run's index in the view stays the same.
    """

    def __init__(self, base: Base, active: list[ActiveRun], settings: Settings, callbacks: Callbacks) -> None:
        self._base, self._active, self._settings, self._callbacks = base, active, settings, callbacks
        self._indices = {one: index for index, one in enumerate(active)}
        self._by_index = list(active)
        adapters = [one.run.adapter for one in active]
        self._view = LoraModelView(base.model, adapters, base.path)
        self._pass_tokens = settings.micro_batch_tokens or base.default_pass_tokens

    def prepare(self) -> None:
        """Compute the soft labels of all runs. Call it once, before the first step."""
        teacher = Teacher(self._base, self._view, self._pass_tokens, self._callbacks.raise_if_stopped)
        for one in self._active:
            one.run.objective.prepare(teacher)

    def step(self) -> None:
        """Do one optimizer step of each run.

        Gradients are summed over passes, so they do not depend on how rows are grouped into passes.
        """
        self._view.set_training(True)
        rows = [row for one in self._active for row in one.run.packed_rows(self._indices[one])]
        for rows_of_pass in forward_passes(rows, self._pass_tokens, masked=self._base.path.is_masked):
            self._check()
            if rows_of_runs := [row for row in rows_of_pass if self._by_index[row.adapter].result is None]:
                self._pass(rows_of_runs)
        for one in self._active:
            if one.result is None:
                try:
                    report = one.run.optimizer_step()
                except NotFinite as error:
                    self._fail(one, error)
                else:
                    self._callbacks.on_step(report)
                    self._save_checkpoint(one)

    def finish(self, one: ActiveRun) -> None:
        """Round a run's adapter to what is saved, measure its parity items, and build its files and manifest."""
        job, run, base = one.job, one.run, self._base
        run.adapter.round_to(base.serving_dtype)
        self._view.set_training(False)

        def before_pass() -> None:
            self._callbacks.raise_if_stopped()
            job.raise_if_lost()

        try:
            run.raise_if_not_finite()
            items = parity.measure_parity_items(
                base,
                self._view,
                self._indices[one],
                run.sequences,
                run.loss_log.improvement,
                run.settings,
                before_pass,
            )
        except LeaseEnded as error:
            one.result = error
            return
        except NotFinite as error:
            self._fail(one, error)
            return
        files = peft_io.serialize(run.adapter, base.digest, base.serving_dtype)
        manifest = Manifest(
            adapter=job.lease.adapter,
            base_digest=base.digest,
            weights_sha256=files.digest,
            trace_ids=job.lease.trace_ids,
            samples=run.sample_counts,
            settings=run.settings.recipe() | {"start": job.parent.name if job.parent else None},
            losses=run.loss_log.first_and_last(),
            tokens=run.tokens,
            seconds=round(run.seconds, 3),
            trainer=" ".join(f"{part.__name__} {part.__version__}" for part in (mindprint, torch, transformers, peft)),
            parity_items=items,
        )
        one.result = TrainedAdapter(manifest, files)

    def _pass(self, rows: Sequence[PackedRow]) -> None:
        batch = collate(rows, self._base.device, masked=self._base.path.is_masked)
        parts = [(self._by_index[part.span.adapter], part.targets) for part in batch.parts]
        weights = [weight for one, targets in parts for weight in one.run.weights(targets)]
        # All runs have the same losses, so either all have soft labels or none has.
        labels = [one.run.objective.labels(targets, self._base.device) for one, targets in parts]
        soft_labels = SoftLabels.concatenate([label for label in labels if label is not None])
        values = backward(self._view, batch, weights, soft_labels, self._settings.logit_chunk)
        begin = 0
        for one, targets in parts:
            try:
                one.run.record_losses(targets, values[begin : begin + len(targets)])
            except NotFinite as error:
                self._fail(one, error)
            begin += len(targets)

    def _check(self) -> None:
        self._callbacks.raise_if_stopped()
        for one in self._active:
            if one.result is None:
                try:
                    one.job.raise_if_lost()
                except LeaseEnded as error:
                    one.result = error

    def _save_checkpoint(self, one: ActiveRun) -> None:
        """Save the run's state if it is due. On a full disk the run continues without checkpoints."""
        checkpoints, run = one.job.checkpoints, one.run
        is_due = run.position % self._settings.checkpoint_every_steps == 0 or run.is_done
        if checkpoints is None or not is_due:
            return
        try:
            checkpoints.save(run.state_dict())
        except OSError as error:
            one.job.checkpoints = None
            self._callbacks.on_event("goes on without checkpoints", adapter=one.job.lease.adapter, error=str(error))

    def _fail(self, one: ActiveRun, error: NotFinite) -> None:
        """End a run with an error, and set its checkpoint aside: another try from it would fail again."""
        aside = one.job.checkpoints.set_aside() if one.job.checkpoints else None
        one.result = NotFinite(f"{error} (its last good checkpoint is kept in {aside})") if aside else error
