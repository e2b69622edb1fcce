"""One adapter's way from its first step to its last. It changes nothing but its own adapter."""

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
from mindprint_trainer.data.packing import PackedRow, Target, pack_rows, plan_steps
from mindprint_trainer.data.tokenization import Kind, TokenizedSample, tokenize_all
from mindprint_trainer.errors import CannotTrain, NotFinite
from mindprint_trainer.model import peft_io
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.objective import soft_labels
from mindprint_trainer.objective.loss import SoftLabels, TargetWeights
from mindprint_trainer.objective.loss_log import LossLog
from mindprint_trainer.objective.soft_labels import SoftTargets
from mindprint_trainer.settings import Settings


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where a training stands after an optimizer step."""

    adapter: str
    step: int
    steps: int
    tokens: int
    """Tokens of the sequences so far, over all epochs; each counts in full, also where a beginning was shared."""
    total_tokens: int
    seconds: float
    losses: dict[str, float]
    """Of the current epoch so far."""
    resumed_tokens: int = 0
    """Tokens, out of `tokens`, that were trained before a crash; `seconds` counts from there."""
    lease_id: str = ""


class TrainingRun:
    """What is trained on, how far it is, and the optimizer. `settings.seed` is raised by `tries`."""

    def __init__(
        self, base: Base, lease: Lease, settings: Settings, parent: peft_io.ParentAdapter | None, tries: int
    ) -> None:
        """Raises CannotTrain: no sample that fits, samples of another user, an adapter that cannot be served."""
        check_single_user(lease)
        self.lease, self.parent, self.tries = lease, parent, tries
        weights = kind_weights(settings)
        wanted = [sample for sample in lease.samples if weights[sample.kind]]  # what counts nothing costs as much
        self.sequences, self.dropped = tokenize_all(wanted, base.encode_text, base.end_of_turn, settings.max_length)
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
                "rank": self.adapter.shape.rank,
                "alpha": self.adapter.shape.alpha,
                "share_prompts": settings.share_prompts and base.takes_trees,
                "micro_batch_tokens": settings.micro_batch_tokens or base.pass_tokens,
            }
        )
        self.optimizer = torch.optim.AdamW(
            self.adapter.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.plan = plan_steps(self.sequences, settings.epochs, settings.batch_size, seed, settings.schedule)
        self.losses, self._weights = LossLog(self.sequences), create_weights(settings, self.sequences)
        self.taught: SoftTargets = soft_labels.smoothing_targets(self.sequences, settings.answer_smoothing)
        self.position = 0
        """Steps done."""
        self.tokens = self._resumed = 0
        self._base, self._started, self._before = base, time.perf_counter(), 0.0

    @property
    def done(self) -> bool:
        return self.position == len(self.plan)

    @property
    def total_tokens(self) -> int:
        return self.settings.epochs * sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def seconds(self) -> float:
        """Since it began, without what a crash took."""
        return self._before + time.perf_counter() - self._started

    @property
    def samples(self) -> dict[str, int]:
        """How many sequences of each kind, how many have a cut prompt, and how many samples were dropped."""
        return {
            **Counter(sequence.kind for sequence in self.sequences),
            "cut": sum(sequence.cut > 0 for sequence in self.sequences),
            "dropped": self.dropped,
        }

    def rows(self, owner: int) -> list[PackedRow]:
        """Of the step at hand, as those of adapter number `owner`."""
        masked = self._base.masked
        limit = self.settings.max_length if masked else self.settings.micro_batch_tokens or self._base.pass_tokens
        numbers, share = self.plan[self.position].numbers, self.settings.share_prompts
        return pack_rows(self.sequences, numbers, limit, share=share, masked=masked, owner=owner)

    def weights(self, targets: Sequence[Target]) -> list[float]:
        return self._weights.of(self.sequences, targets, len(self.plan[self.position].numbers))

    def labels(self, targets: Sequence[Target]) -> SoftLabels:
        return soft_labels.build_soft_labels(targets, self.taught, self._base.device)

    def add(self, targets: Sequence[Target], values: Sequence[float]) -> None:
        """Notes the losses of a pass. Raises NotFinite."""
        if not all(map(math.isfinite, values)):
            raise self._not_finite("loss")
        self.losses.add(self.plan[self.position].epoch, targets, values)

    def step(self) -> StepReport:
        """Moves the weights by the gradient that the passes have summed up. Raises NotFinite."""
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
        self.tokens += sum(len(self.sequences[number].ids) for number in step.numbers)
        return StepReport(
            self.lease.adapter,
            self.position,
            len(self.plan),
            self.tokens,
            self.total_tokens,
            time.perf_counter() - self._started,
            self.losses.means(step.epoch),
            self._resumed,
            self.lease.id,
        )

    def state(self) -> dict[str, Any]:
        """All that a training needs to go on to the same bits, apart from what the lease and the settings decide."""
        return {
            "tries": self.tries,
            "position": self.position,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "adapter": {name: tensor.detach() for name, tensor in peft_io.named_parameters(self.adapter).items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.adapter.generator.get_state(),
            "losses": self.losses.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from `state`, which must be of a training of the same task under the same seed."""
        held: dict[str, Tensor] = state["adapter"]
        with torch.no_grad():
            for name, parameter in peft_io.named_parameters(self.adapter).items():
                parameter.copy_(held[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.adapter.generator.set_state(state["generator"])
        self.losses.load(state["losses"])
        self.position, self.tokens, self._before = state["position"], state["tokens"], state["seconds"]
        self._resumed = self.tokens

    def _not_finite(self, what: str) -> NotFinite:
        return NotFinite(
            f"the {what} of {self.lease.adapter} was not finite in step {self.position + 1}: "
            "lower MINDPRINT_TRAIN_LEARNING_RATE or look at the traces"
        )


def check_single_user(lease: Lease) -> None:
    """An adapter of one user never sees another's words. Raises CannotTrain."""
    kind, _, name = lease.adapter.partition("/")
    strangers = {sample.user_id for sample in lease.samples} - {None, name} if kind == "user" else set()
    if strangers:
        raise CannotTrain(f"the lease for {lease.adapter} holds samples of {len(strangers)} other users: refused")


def learning_rate_factor(step: int, steps: int, warmup: float, decay: float) -> float:
    """The factor of the learning rate in `step` of 1..steps: a trapezoid (warm-up, stable, decay).

    It rises to 1 within the first `warmup` of the steps and falls towards 0, which the step after the last would have,
    within the last `decay` of them; where both meet, the lower one counts.
    """
    rising, falling = (max(1, math.ceil(share * steps)) for share in (warmup, decay))
    return min(1.0, step / rising, (steps + 1 - step) / falling)


def kind_weights(settings: Settings) -> dict[Kind, float]:
    return {"slow": settings.slow_weight, "fast": settings.fast_weight, "replay": settings.replay_weight}


def create_weights(settings: Settings, sequences: Sequence[TokenizedSample]) -> TargetWeights:
    """What a sequence of each kind and a segment of each part count.

    Balanced, slow and fast sequences count as much as each other in all, however many there are of either: users have
    far more engagements than accepted traces, and an adapter that mostly learns to answer unlearns to think. Two of
    which one teaches only the thinking and the other only the answer count as the one that would teach both.
    """
    parts = Counter((one.kind, segment.part) for one in sequences for segment in one.segments)
    counts = {
        kind: max((n for (of, _), n in parts.items() if of == kind), default=0) for kind in kind_weights(settings)
    }
    both: tuple[Kind, ...] = ("slow", "fast")
    even = settings.balance and settings.schedule == "mix" and all(counts[kind] for kind in both)
    share = {kind: sum(counts[one] for one in both) / 2 / counts[kind] for kind in both if even}
    return TargetWeights(
        kinds={kind: weight * share.get(kind, 1.0) for kind, weight in kind_weights(settings).items()},
        parts={
            "opening": settings.frame_weight,
            "thinking": settings.thinking_weight,
            "closing": settings.frame_weight,
            "answer": settings.answer_weight,
        },
    )
