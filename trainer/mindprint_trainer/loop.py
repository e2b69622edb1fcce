"""Trains one lease: samples in, an adapter's files and their manifest out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel
from torch import nn

import mindprint
from mindprint.types import Lease, Manifest
from mindprint_trainer import canary, lora
from mindprint_trainer.base import Base
from mindprint_trainer.batching import micro_batches, rows, steps
from mindprint_trainer.errors import CannotTrain, NotFinite
from mindprint_trainer.losses import Losses
from mindprint_trainer.objective import Weights, backward, collate
from mindprint_trainer.samples import Encoded, encode_all
from mindprint_trainer.settings import Settings

Check = Callable[[], None]
"""Called before every forward pass; raises when the training must not go on."""


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


Tell = Callable[[StepReport], None]


def train(base: Base, lease: Lease, settings: Settings, folder: Path, check: Check, tell: Tell) -> Manifest:
    """Trains a new adapter on the lease's samples and writes it into the new folder `folder`.

    Raises CannotTrain (nothing to train on), NotFinite, and whatever `check` raises. The base is as before afterwards.
    """
    started = time.perf_counter()
    sequences, dropped = encode_all(lease.samples, base.tokenize, base.end_of_turn, settings.max_length)
    if not sequences:
        raise CannotTrain(
            f"none of the {len(lease.samples)} samples of {lease.adapter} fits into {settings.max_length} tokens: "
            "raise MINDPRINT_TRAIN_MAX_LENGTH"
        )
    # Another attempt takes another seed: with the same one it would fail in the same way.
    settings = settings.model_copy(
        update={
            "seed": settings.seed + lease.attempt,
            "rank": min(settings.rank, lease.limits.max_rank),
            "share_prompts": settings.share_prompts and base.takes_trees,
            "micro_batch_tokens": settings.micro_batch_tokens or base.pass_tokens,
        }
    )
    with lora.attached(base, settings, lease.limits, settings.seed) as adapted:
        losses = fit(base, adapted, sequences, lease.adapter, settings, check, tell)
        lora.round_to(adapted, base.served)
        items = canary.prove(base, adapted, sequences, losses.learned, settings, check)
        digest = lora.save(adapted, folder, base.digest, base.served)
    return Manifest(
        adapter=lease.adapter,
        base_digest=base.digest,
        weights_sha256=digest,
        trace_ids=lease.trace_ids,
        samples={
            **Counter(sequence.kind for sequence in sequences),
            "cut": sum(sequence.cut > 0 for sequence in sequences),
            "dropped": dropped,
        },
        settings=settings.recipe(),
        losses=losses.first_and_last(),
        tokens=settings.epochs * sum(len(sequence.ids) for sequence in sequences),
        seconds=round(time.perf_counter() - started, 3),
        trainer=" ".join(f"{part.__name__} {part.__version__}" for part in (mindprint, torch, transformers, peft)),
        canary=items,
    )


def fit(
    base: Base,
    adapted: PeftModel,
    sequences: Sequence[Encoded],
    name: str,
    settings: Settings,
    check: Check,
    tell: Tell,
) -> Losses:
    """AdamW over all epochs. The gradient of a step does not depend on how it is cut into forward passes."""
    parameters = lora.trainable(adapted)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    plan = [
        (epoch, step)
        for epoch in range(settings.epochs)
        for step in steps(sequences, settings.batch_size, f"{settings.seed}/{epoch}")
    ]
    total = settings.epochs * sum(len(sequence.ids) for sequence in sequences)
    losses, weights, model = Losses(sequences), weights_of(settings), adapted.get_base_model()
    started, tokens = time.perf_counter(), 0
    adapted.train()
    for number, (epoch, step) in enumerate(plan, start=1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * warm(number, len(plan), settings.warmup)
        made = rows(sequences, step, settings.max_length, share=settings.share_prompts)
        for together in micro_batches(made, settings.micro_batch_tokens or base.pass_tokens):
            check()
            batch = collate(together, base.device)
            counts = weights.of(sequences, batch.targets, len(step))
            values = backward(model, batch, counts, settings.logit_chunk)
            if not all(map(math.isfinite, values)):
                raise not_finite(name, "loss", number)
            losses.add(epoch, batch.targets, values)
        if not torch.isfinite(nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)):
            raise not_finite(name, "gradient", number)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(sequences[n].ids) for n in step)
        tell(StepReport(name, number, len(plan), tokens, total, time.perf_counter() - started, losses.means(epoch)))
    return losses


def warm(step: int, steps: int, share: float) -> float:
    """The factor of the learning rate in `step` of 1..steps: rises to 1 within the first `share` of them."""
    return min(1.0, step / max(1, math.ceil(share * steps)))


def weights_of(settings: Settings) -> Weights:
    return Weights(
        kinds={"slow": settings.slow_weight, "fast": settings.fast_weight, "replay": settings.replay_weight},
        parts={"thinking": settings.thinking_weight, "answer": settings.answer_weight},
    )


def not_finite(name: str, what: str, step: int) -> NotFinite:
    return NotFinite(
        f"the {what} of {name} was not finite in step {step}; its traces wait again: "
        "lower MINDPRINT_TRAIN_LEARNING_RATE or look at the traces"
    )
