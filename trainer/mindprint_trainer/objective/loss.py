"""The training loss.

The loss of an optimizer step with S sequences is

    1/S * sum over sequences s:  kind(s) * sum over segments g of s:  part(g) * mean over tokens t of g:  CE(t)

`kind` and `part` are the weights of `weights.py`. CE(t) is the cross-entropy of the model's distribution at t against
its label: the token itself, or a distribution of `soft_labels.py`. Each segment is averaged, so that long thinking does
not count more than a short answer.

Logits are computed in float32 at target positions only, `logit_chunk` of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mindprint_trainer.data.packing import Target
from mindprint_trainer.data.tokenization import TokenizedSample
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective.batch import PackedBatch, target_hidden_states
from mindprint_trainer.objective.soft_labels import SoftLabels, SoftTargets, Teacher, build_soft_labels, enabled_losses
from mindprint_trainer.objective.weights import create_weights
from mindprint_trainer.settings import Settings


class Objective:
    """The labels and weights of one training run's targets."""

    def __init__(self, sequences: Sequence[TokenizedSample], settings: Settings) -> None:
        self._sequences, self._settings = sequences, settings
        self._weights = create_weights(settings, sequences)
        self._losses = enabled_losses(settings)
        self._soft_targets: SoftTargets = {}

    def prepare(self, teacher: Teacher) -> None:
        """Compute the soft labels. Call it once, before the first step."""
        for loss in self._losses:
            self._soft_targets = {
                **self._soft_targets,
                **loss.targets(self._sequences, self._settings, teacher),
            }

    def weights(self, targets: Sequence[Target], step_size: int) -> list[float]:
        """Return the factor of each target's loss in a step of `step_size` sequences."""
        return self._weights.of(self._sequences, targets, step_size)

    def labels(self, targets: Sequence[Target], device: torch.device) -> SoftLabels | None:
        """Return the labels of the targets; None when every label is the target's own token."""
        return build_soft_labels(targets, self._soft_targets, device) if self._losses else None


def nll(view: LoraModelView, states: Tensor, tokens: Tensor) -> Tensor:
    """Compute the negative log-likelihood of tokens, with a float32 softmax over the model's logits.

    Args:
        view: The base model with the adapters.
        states: Hidden states `[targets, hidden]`.
        tokens: The right token ids `[targets]`.

    Returns:
        `[targets]`, in nats.
    """
    return functional.cross_entropy(view.logits(states).float(), tokens, reduction="none")


def soft_cross_entropy(view: LoraModelView, states: Tensor, labels: SoftLabels) -> Tensor:
    """Compute the cross-entropy of the model's distribution against soft labels.

    Args:
        view: The base model with the adapters.
        states: Hidden states `[targets, hidden]`.
        labels: The labels of the same targets.

    Returns:
        `[targets]`, in nats.
    """
    logprobs = torch.log_softmax(view.logits(states).float(), -1)
    return -(logprobs.gather(1, labels.ids) * labels.probs).sum(1)


def backward(
    view: LoraModelView, batch: PackedBatch, weights: Sequence[float], labels: SoftLabels | None, logit_chunk: int
) -> list[float]:
    """Run one pass forward and backward: add the gradient of sum(weight * loss) to the adapters' parameters.

    The head runs forward and backward on `logit_chunk` targets at a time, up to a detached copy of the hidden states.
    Then the body runs backward once. So the memory for logits does not depend on the number of targets.

    Args:
        view: The base model with the adapters.
        batch: The pass.
        weights: Weight of each target.
        labels: Label of each target; None takes the target's own token.
        logit_chunk: Targets whose logits are in memory at once.

    Returns:
        The unweighted loss of each target, in nats.
    """
    states = target_hidden_states(view, batch)
    leaf = states.detach().requires_grad_()
    scale = torch.tensor(weights, device=states.device)
    values: list[float] = []
    for start in range(0, len(weights), logit_chunk):
        chunk = slice(start, start + logit_chunk)
        if labels is None:
            losses = nll(view, leaf[chunk], batch.tokens[chunk])
        else:
            losses = soft_cross_entropy(view, leaf[chunk], labels[chunk])
        (losses * scale[chunk]).sum().backward()  # type: ignore[no-untyped-call]
        values += losses.detach().tolist()
    states.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return values


@torch.inference_mode()
def measure_nll(view: LoraModelView, batch: PackedBatch, logit_chunk: int) -> list[float]:
    """Compute the negative log-likelihood of each target of a pass, without gradients.

    Args:
        view: The base model with the adapters.
        batch: The pass.
        logit_chunk: Targets whose logits are in memory at once.

    Returns:
        One value a target, in nats.
    """
    states = target_hidden_states(view, batch)
    values: list[float] = []
    for start in range(0, len(states), logit_chunk):
        chunk = slice(start, start + logit_chunk)
        values += nll(view, states[chunk], batch.tokens[chunk]).tolist()
    return values
