"""Trains leases: samples in, an adapter's files and their manifest out. Several at once share their passes."""

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
from mindprint_trainer.model import peft_io, tree_attention
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective import soft_labels
from mindprint_trainer.objective.loss import SoftLabels, backward, collate
from mindprint_trainer.settings import Settings
from mindprint_trainer.training.run import StepReport, TrainingRun


def do_nothing(*_: Any, **__: Any) -> None:
    """Where nobody checks or listens."""


@dataclass(frozen=True)
class TrainedAdapter:
    manifest: Manifest
    files: peft_io.AdapterFiles


JobResult = TrainedAdapter | CannotTrain | NotFinite | LeaseEnded


@dataclass(eq=False)
class TrainingJob:
    """A lease, and what its training needs from outside."""

    lease: Lease
    parent: peft_io.ParentAdapter | None = None
    tries: int = 0
    """How often these traces failed before: each takes a seed of its own, for the same would fail in the same way."""
    check: Callable[[], None] = do_nothing
    """Raises LeaseEnded when this lease is no longer ours; the others go on."""
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True)
class Callbacks:
    """What a training tells and asks."""

    check: Callable[[], None] = do_nothing
    """Called before every forward pass; raises when all must end."""
    tell: Callable[[StepReport], None] = do_nothing
    say: Callable[..., None] = do_nothing


NO_CALLBACKS = Callbacks()


def train_adapter(base: Base, lease: Lease, settings: Settings, hooks: Callbacks = NO_CALLBACKS) -> TrainedAdapter:
    """Trains an adapter on the lease's samples. Raises CannotTrain, NotFinite, and whatever `hooks.check` raises."""
    (made,) = train_adapters(base, [lease], settings, hooks)
    return made


def train_adapters(
    base: Base, leases: Sequence[Lease], settings: Settings, hooks: Callbacks = NO_CALLBACKS
) -> list[TrainedAdapter]:
    """Trains an adapter for each lease in shared passes. Raises as `train_adapter` does, for the first that fails."""
    jobs = [TrainingJob(lease) for lease in leases]
    made: dict[TrainingJob, TrainedAdapter] = {}
    for job, result in train_in_shared_passes(base, jobs, settings, hooks):
        if isinstance(result, Exception):
            raise result
        made[job] = result
    return [made[job] for job in jobs]


def train_in_shared_passes(
    base: Base, jobs: Sequence[TrainingJob], settings: Settings, hooks: Callbacks = NO_CALLBACKS
) -> Iterator[tuple[TrainingJob, JobResult]]:
    """Trains all jobs in shared passes, and yields each as it ends: trained, failed, or its lease lost.

    A job that fails leaves the others as they are. The base is never touched.
    """
    going: list[ActiveRun] = []
    for job in jobs:
        try:
            going.append(ActiveRun(job, open_run(base, job, settings, hooks)))
        except CannotTrain as error:
            yield job, error
    if not going:
        return
    together = MultiAdapterTrainer(base, going, settings, hooks)
    together.prepare()
    while going:
        for one in going:
            if one.result is None and one.training.done:
                together.finish(one)
        for one in [one for one in going if one.result is not None]:
            going.remove(one)
            assert one.result is not None
            yield one.job, one.result
        if going:
            together.step()


def open_run(base: Base, job: TrainingJob, settings: Settings, hooks: Callbacks = NO_CALLBACKS) -> TrainingRun:
    """The job's training, where its checkpoint left it if there is one. Raises CannotTrain."""
    training = TrainingRun(base, job.lease, settings, job.parent, job.tries)
    state = job.checkpoints.load() if job.checkpoints else None
    if state is not None and state["tries"] == job.tries:
        training.load(state)
        hooks.say("goes on", adapter=job.lease.adapter, step=f"{training.position}/{len(training.plan)}")
    return training


@dataclass(eq=False)
class ActiveRun:
    job: TrainingJob
    training: TrainingRun
    result: JobResult | None = None


class MultiAdapterTrainer:
    """Steps of several trainings over one base. `going` shrinks as they end; their numbers in the stack stay."""

    def __init__(self, base: Base, going: list[ActiveRun], settings: Settings, hooks: Callbacks) -> None:
        self._base, self._going, self._settings, self._hooks = base, going, settings, hooks
        self._numbers = {one: number for number, one in enumerate(going)}
        self._owners = list(going)
        adapters = [one.training.adapter for one in going]
        self._stack = LoraModelView(base.model, adapters, None if base.masked else tree_attention.ATTENTION_NAME)
        self._pass_tokens = settings.micro_batch_tokens or base.pass_tokens

    def prepare(self) -> None:
        """Asks the base for soft labels, where they are wanted."""
        for one in self._going if self._settings.soft_labels else ():
            thinking = soft_labels.distill_targets(
                self._base, self._stack, one.training.sequences, self._settings, self._pass_tokens, self._hooks.check
            )
            one.training.taught = {**one.training.taught, **thinking}

    def step(self) -> None:
        """One optimizer step of each. Their gradients do not depend on how they are cut into passes."""
        self._stack.model.train()
        made = [row for one in self._going for row in one.training.rows(self._numbers[one])]
        for rows in forward_passes(made, self._pass_tokens, masked=self._base.masked):
            self._check()
            if mine := [row for row in rows if self._owners[row.owner].result is None]:
                self._pass(mine)
        for one in self._going:
            if one.result is None:
                try:
                    report = one.training.step()
                except NotFinite as error:
                    self._fail(one, error)
                else:
                    self._hooks.tell(report)
                    self._keep(one)

    def finish(self, one: ActiveRun) -> None:
        """Rounds the adapter to what is saved, measures its canary, and packs it."""
        job, training, base = one.job, one.training, self._base
        number = self._numbers[one]
        training.adapter.round_to(base.served)
        self._stack.model.eval()

        def check() -> None:
            self._hooks.check()
            job.check()

        try:
            items = parity.measure_parity_items(
                base, self._stack, number, training.sequences, training.losses.learned, training.settings, check
            )
        except LeaseEnded as error:
            one.result = error
            return
        files = peft_io.serialize(training.adapter, base.digest, base.served)
        manifest = Manifest(
            adapter=job.lease.adapter,
            base_digest=base.digest,
            weights_sha256=files.digest,
            trace_ids=job.lease.trace_ids,
            samples=training.samples,
            settings=training.settings.recipe() | {"start": job.parent.name if job.parent else None},
            losses=training.losses.first_and_last(),
            tokens=training.tokens,
            seconds=round(training.seconds, 3),
            trainer=" ".join(f"{part.__name__} {part.__version__}" for part in (mindprint, torch, transformers, peft)),
            canary=items,
        )
        one.result = TrainedAdapter(manifest, files)

    def _pass(self, rows: Sequence[PackedRow]) -> None:
        batch = collate(rows, self._base.device, masked=self._base.masked)
        owners = [(self._owners[share.span.adapter], share.targets) for share in batch.shares]
        weights = [weight for one, targets in owners for weight in one.training.weights(targets)]
        labels = [one.training.labels(targets) for one, targets in owners] if self._settings.softens else []
        values = backward(self._stack, batch, weights, SoftLabels.joined(labels), self._settings.logit_chunk)
        begin = 0
        for one, targets in owners:
            try:
                one.training.add(targets, values[begin : begin + len(targets)])
            except NotFinite as error:
                self._fail(one, error)
            begin += len(targets)

    def _check(self) -> None:
        self._hooks.check()
        for one in self._going:
            if one.result is None:
                try:
                    one.job.check()
                except LeaseEnded as error:
                    one.result = error

    def _keep(self, one: ActiveRun) -> None:
        """Writes a checkpoint when it is time. Without room on the disk the training goes on without."""
        checkpoints, training = one.job.checkpoints, one.training
        due = training.position % self._settings.checkpoint_every_steps == 0 or training.done
        if checkpoints is None or not due:
            return
        try:
            checkpoints.save(training.state())
        except OSError as error:
            one.job.checkpoints = None
            self._hooks.say("goes on without checkpoints", adapter=one.job.lease.adapter, error=str(error))

    def _fail(self, one: ActiveRun, error: NotFinite) -> None:
        """Its last good checkpoint stays, but aside: another go must not run into the same end."""
        aside = one.job.checkpoints.fail() if one.job.checkpoints else None
        one.result = NotFinite(f"{error} (its last good checkpoint is kept in {aside})") if aside else error
