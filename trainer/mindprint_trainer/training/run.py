"""The training run of one adapter, step by step. It changes nothing but its own adapter."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mindprint.types import Lease
from mindprint.types.keys import AdapterKey
from mindprint_trainer.data.packing import PackedRow, Target, pack_rows, plan_steps
from mindprint_trainer.data.tokenization import tokenize_all
from mindprint_trainer.errors import CannotTrain, NotFinite
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.objective.loss import Objective
from mindprint_trainer.objective.loss_log import LossLog
from mindprint_trainer.objective.weights import kind_weights
from mindprint_trainer.settings import Settings


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress of a training run after an optimizer step."""

    adapter: str
    step: int
    steps: int
    tokens: int
    """Tokens of the sequences so far, over all epochs. Shared prefixes count for each sequence."""
    total_tokens: int
    seconds: float
    """Seconds since this process began the run."""
    losses: dict[str, float]
    """Mean losses of the current epoch so far, in nats a token, by names like `slow_thinking`."""
    resumed_tokens: int = 0
    """Part of `tokens` that another process trained before it crashed. `seconds` does not include that time."""
    lease_id: str = ""


class TrainingRun:
    """The sequences, the plan, the adapter and the optimizer of one training run.

    For each step of `plan`: compute the gradients of `packed_rows`, hand the losses to `record_losses`, then call
    `optimizer_step`.
    """

    def __init__(
        self, base: Base, lease: Lease, settings: Settings, parent: peft_io.ParentAdapter | None, tries: int
    ) -> None:
        """Prepare a training run.

        Args:
            base: The base model.
            lease: The samples, and what the engine can serve.
            settings: The trainer's settings.
            parent: The version to start from; None starts from a new adapter.
            tries: Number of failed tries of these traces. It is added to the seed.

        Raises:
            CannotTrain: No sample fits, a sample belongs to another user, or the engine cannot serve the adapter.
        """
        check_single_user(lease)
        self.lease, self.parent, self.tries = lease, parent, tries
        # Leave out samples of a kind with weight 0: they would cost as much time as others.
        weights = kind_weights(settings)
        weighted = [sample for sample in lease.samples if weights[sample.kind]]
        end_of_turn = _end_of_turn(base, lease)
        self.sequences, self.dropped = tokenize_all(weighted, base.tokenize_text, end_of_turn, settings.max_length)
        if not self.sequences:
            raise CannotTrain(
                f"none of the {len(lease.samples)} samples of {lease.adapter} fits into {settings.max_length} tokens: "
                "raise MINDPRINT_TRAIN_MAX_LENGTH"
            )
        seed = settings.seed + tries
        self.adapter = peft_io.create_initial_adapter(base.model, parent, settings, lease.limits, seed)
        self.settings = settings = settings.model_copy(
            update={
                "seed": seed,
                "rank": self.adapter.config.rank,
                "alpha": self.adapter.config.alpha,
                "share_prompts": settings.share_prompts and base.path.shares_prefixes,
                "micro_batch_tokens": settings.micro_batch_tokens or base.default_pass_tokens,
            }
        )
        self.optimizer = torch.optim.AdamW(
            self.adapter.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.plan = plan_steps(self.sequences, settings.epochs, settings.batch_size, seed, settings.schedule)
        self.objective = Objective(self.sequences, settings)
        self.loss_log = LossLog(self.sequences)
        self.position = 0
        """Optimizer steps done."""
        self.tokens = self._resumed_tokens = 0
        self._base, self._started, self._seconds_before = base, time.perf_counter(), 0.0

    @property
    def is_done(self) -> bool:
        """Return whether all steps are done."""
        return self.position == len(self.plan)

    @property
    def total_tokens(self) -> int:
        """Count the tokens of all sequences over all epochs."""
        return self.settings.epochs * sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def seconds(self) -> float:
        """Return the time spent on this run, including that of processes that crashed up to their checkpoint."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def sample_counts(self) -> dict[str, int]:
        """Count the sequences by kind, those with a `cut` prompt, and the `dropped` samples."""
        return {
            **Counter(sequence.kind for sequence in self.sequences),
            "cut": sum(sequence.cut_tokens > 0 for sequence in self.sequences),
            "dropped": self.dropped,
        }

    def packed_rows(self, adapter: int) -> list[PackedRow]:
        """Pack the sequences of the current step.

        Args:
            adapter: Index that the rows carry.
        """
        masked = self._base.path.is_masked
        pass_tokens = self.settings.micro_batch_tokens or self._base.default_pass_tokens
        return pack_rows(
            self.sequences,
            self.plan[self.position].sequences,
            self.settings.max_length if masked else pass_tokens,
            share_prefixes=self.settings.share_prompts,
            masked=masked,
            adapter=adapter,
        )

    def weights(self, targets: Sequence[Target]) -> list[float]:
        """Return the factor of each target's loss in the current step."""
        return self.objective.weights(targets, len(self.plan[self.position].sequences))

    def record_losses(self, targets: Sequence[Target], values: Sequence[float]) -> None:
        """Record the losses of a pass of the current step.

        Args:
            targets: The run's targets in the pass.
            values: The unweighted loss of each, in nats.

        Raises:
            NotFinite: A loss is NaN or infinite.
        """
        if not all(map(math.isfinite, values)):
            raise self._not_finite("loss")
        self.loss_log.add(self.plan[self.position].epoch, targets, values)

    def optimizer_step(self) -> StepReport:
        """Update the weights with the gradient that the passes of the current step have summed.

        Raises:
            NotFinite: The gradient is NaN or infinite.
        """
        step, settings = self.plan[self.position], self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(
                self.position + 1, len(self.plan), settings.warmup, settings.decay
            )
        if not torch.isfinite(nn.utils.clip_grad_norm_(self.adapter.parameters, settings.max_grad_norm)):
            raise self._not_finite("gradient")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.position += 1
        self.tokens += sum(len(self.sequences[index].ids) for index in step.sequences)
        return StepReport(
            adapter=self.lease.adapter,
            step=self.position,
            steps=len(self.plan),
            tokens=self.tokens,
            total_tokens=self.total_tokens,
            seconds=time.perf_counter() - self._started,
            losses=self.loss_log.means(step.epoch),
            resumed_tokens=self._resumed_tokens,
            lease_id=self.lease.id,
        )

    def raise_if_not_finite(self) -> None:
        """Check the weights as they are saved: rounding to float16 makes infinity of large ones.

        Raises:
            NotFinite: A weight is NaN or infinite.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.adapter.parameters):
            raise self._not_finite("adapter")

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a run continues bit by bit, without what lease and settings decide."""
        return {
            "tries": self.tries,
            "position": self.position,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "adapter": {name: tensor.detach() for name, tensor in peft_io.named_parameters(self.adapter).items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.adapter.generator.get_state(),
            "losses": self.loss_log.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a run of the same task with the same `tries`."""
        saved: dict[str, Tensor] = state["adapter"]
        with torch.no_grad():
            for name, parameter in peft_io.named_parameters(self.adapter).items():
                parameter.copy_(saved[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.adapter.generator.set_state(state["generator"])
        self.loss_log.load_state_dict(state["losses"])
        self.position, self.tokens, self._seconds_before = state["position"], state["tokens"], state["seconds"]
        self._resumed_tokens = self.tokens

    def _not_finite(self, what: str) -> NotFinite:
        return NotFinite(
            f"the {what} of {self.lease.adapter} was not finite in step {min(self.position + 1, len(self.plan))}: "
            "lower MINDPRINT_TRAIN_LEARNING_RATE or look at the traces"
        )


def _end_of_turn(base: Base, lease: Lease) -> int:
    """Return the token that ends every answer: the one at which the engine stops.

    Raises:
        CannotTrain: The model has no such token.
    """
    if lease.end_of_turn is None:
        return base.end_of_turn
    size = base.model.get_input_embeddings().num_embeddings
    if not 0 <= lease.end_of_turn < size:
        raise CannotTrain(
            f"the engine ends a turn with token {lease.end_of_turn} and this model has {size}: "
            "train with the model that is served"
        )
    return lease.end_of_turn


def check_single_user(lease: Lease) -> None:
    """Check that a user's adapter is trained on that user's samples only: no user's data reaches another's adapter.

    Raises:
        CannotTrain: The lease is for a user's adapter and holds samples of another user.
    """
    adapter = AdapterKey(lease.adapter)
    others = {sample.user_id for sample in lease.samples} - {None, adapter.name} if adapter.kind == "user" else set()
    if others:
        raise CannotTrain(f"the lease for {lease.adapter} holds samples of {len(others)} other users: refused")


def learning_rate_factor(step: int, steps: int, warmup: float, decay: float) -> float:
    """Return the factor of the learning rate: linear warm-up, constant, linear decay to 0 after the last step.

    Args:
        step: The step, from 1 to `steps`.
        steps: All steps of the run.
        warmup: Fraction of the steps, the first ones, in which the factor rises to 1.
        decay: Fraction of the steps, the last ones, in which it falls. Where both overlap the lower factor holds.
    """
    warmup_steps, decay_steps = (max(1, math.ceil(fraction * steps)) for fraction in (warmup, decay))
    return min(1.0, step / warmup_steps, (steps + 1 - step) / decay_steps)
