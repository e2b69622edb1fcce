"""Losses whose label is a distribution over tokens: label smoothing of answers, and distillation of the thinking.

To add such a loss: write a class with the methods of `Loss` here, and append it to `LOSSES`. Add its settings to
`settings.py`, and their names to `RECIPE` there: they change the trained weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mindprint_trainer.data.packing import Target, forward_passes, pack_rows
from mindprint_trainer.data.tokenization import TokenizedSample
from mindprint_trainer.model.base_model import Base
from mindprint_trainer.model.lora import LoraModelView
from mindprint_trainer.objective.batch import collate, target_hidden_states
from mindprint_trainer.settings import Settings

SoftTargets = Mapping[tuple[int, int], tuple[Tensor, Tensor]]
"""Labels by index of a sequence and position in it: token ids `[k]` and probabilities `[k]`, which sum to 1."""
TokenProbs = Mapping[int, float]
"""Probabilities by token id; they sum to 1."""


@dataclass(frozen=True)
class Teacher:
    """The base model as a source of labels."""

    base: Base
    view: LoraModelView
    """A view of the base model; its adapters are disabled while it teaches."""
    pass_tokens: int
    """Upper bound of a forward pass, in tokens."""
    before_pass: Callable[[], None]
    """Called before each forward pass; may raise to stop."""


class Loss(Protocol):
    """A loss that replaces the label of some targets by a distribution.

    A target that no loss replaces has its own token as the label, with probability 1. Weights are those of `weights.py`
    for all targets.
    """

    def is_enabled(self, settings: Settings) -> bool:
        """Return whether the settings ask for this loss."""
        ...

    def targets(self, sequences: Sequence[TokenizedSample], settings: Settings, teacher: Teacher) -> SoftTargets:
        """Compute the labels of the targets that this loss replaces, once for a training run.

        Args:
            sequences: All sequences of the run.
            settings: The run's settings.
            teacher: The base model, for losses that ask it.
        """
        ...


class AnswerSmoothing:
    """Smooth the labels of closed answers (`answer_smoothing`; decision 017)."""

    def is_enabled(self, settings: Settings) -> bool:
        """Return whether the setting `answer_smoothing` is above 0."""
        return settings.answer_smoothing > 0

    def targets(self, sequences: Sequence[TokenizedSample], settings: Settings, teacher: Teacher) -> SoftTargets:
        """Compute the labels of the answer tokens at which the choices differ."""
        return smoothing_targets(sequences, settings.answer_smoothing)


class ThinkingDistillation:
    """Train the thinking towards the base model's own distribution (`soft_labels`)."""

    def is_enabled(self, settings: Settings) -> bool:
        """Return whether the setting `soft_labels` is above 0."""
        return settings.soft_labels > 0

    def targets(self, sequences: Sequence[TokenizedSample], settings: Settings, teacher: Teacher) -> SoftTargets:
        """Compute the labels of all thinking tokens with the base model."""
        return distill_targets(sequences, settings.soft_labels, settings.logit_chunk, teacher)


LOSSES: tuple[Loss, ...] = (AnswerSmoothing(), ThinkingDistillation())
"""All losses. Where two replace the same label, the later one wins."""


def enabled_losses(settings: Settings) -> list[Loss]:
    """List the losses that the settings ask for."""
    return [loss for loss in LOSSES if loss.is_enabled(settings)]


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """The labels of the targets of a pass as dense tensors."""

    ids: Tensor
    """`[targets, k]` token ids."""
    probs: Tensor
    """`[targets, k]`; each row sums to 1, and unused entries are 0."""

    def __getitem__(self, piece: slice) -> SoftLabels:
        return SoftLabels(self.ids[piece], self.probs[piece])

    @staticmethod
    def concatenate(parts: Sequence[SoftLabels]) -> SoftLabels | None:
        """Join the labels of several adapters, each padded to the widest k. None without parts."""
        if not parts:
            return None
        k = max(part.ids.shape[1] for part in parts)
        return SoftLabels(
            torch.cat([functional.pad(part.ids, (0, k - part.ids.shape[1])) for part in parts]),
            torch.cat([functional.pad(part.probs, (0, k - part.probs.shape[1])) for part in parts]),
        )


def build_soft_labels(targets: Sequence[Target], soft_targets: SoftTargets, device: torch.device) -> SoftLabels:
    """Build the dense labels of a pass.

    Args:
        targets: The targets of one adapter in a pass.
        soft_targets: Labels that losses have replaced. Other targets get their own token with probability 1.
        device: Where the tensors go.
    """
    replaced = [soft_targets.get((target.sequence, target.position)) for target in targets]
    k = max((len(ids) for ids, _ in filter(None, replaced)), default=1)
    ids, probs = torch.zeros((len(targets), k), dtype=torch.long), torch.zeros((len(targets), k))
    for row, (target, known) in enumerate(zip(targets, replaced, strict=True)):
        if known is None:
            ids[row, 0], probs[row, 0] = target.token, 1
        else:
            ids[row, : len(known[0])], probs[row, : len(known[1])] = known
    return SoftLabels(ids.to(device), probs.to(device))


def smooth_answer(answer: Sequence[int], choices: Sequence[Sequence[int]], smoothing: float) -> Iterator[TokenProbs]:
    """Smooth a closed answer over its choices, token by token (Szegedy et al. 2016, section 7).

    The real answer gets probability 1 - `smoothing`, and `smoothing` is spread evenly over all choices, the real one
    included. The label of a token is that distribution, given the answer's tokens before it.

    An adapter can store more bits than the answers of two dozen engagements have. Without smoothing it memorizes them
    and becomes as certain about new questions (decision 017).

    Args:
        answer: Token ids of the real answer.
        choices: Token ids of each choice.
        smoothing: Probability that is spread, from 0 to below 1.

    Returns:
        For each token of the answer the probabilities of the tokens that may stand there.
    """
    probs = dict.fromkeys(map(tuple, choices), smoothing / len(choices)) if choices else {}
    probs[tuple(answer)] = probs.get(tuple(answer), 0.0) + 1 - smoothing
    for place in range(len(answer)):
        next_token: dict[int, float] = {}
        for ids, prob in probs.items():
            if ids[:place] == tuple(answer[:place]) and place < len(ids):
                next_token[ids[place]] = next_token.get(ids[place], 0.0) + prob
        total = sum(next_token.values())
        yield {token: prob / total for token, prob in next_token.items()}


def smooth_sequence(sequence: TokenizedSample, smoothing: float) -> dict[int, TokenProbs]:
    """Return the smoothed labels of a sequence's answer by position, where choices differ.

    Empty for an open answer, and where only one token may follow.
    """
    last = sequence.segments[-1]
    if last.part != "answer" or not sequence.choices or not smoothing:
        return {}
    smoothed = smooth_answer(sequence.ids[last.start : last.stop], sequence.choices, smoothing)
    return {last.start + i: probs for i, probs in enumerate(smoothed) if len(probs) > 1}


def smoothing_targets(sequences: Sequence[TokenizedSample], smoothing: float) -> SoftTargets:
    """Return the smoothed labels of all sequences' answers, where choices differ."""
    return {
        (index, position): (torch.tensor(list(probs)), torch.tensor(list(probs.values())))
        for index, sequence in enumerate(sequences)
        for position, probs in smooth_sequence(sequence, smoothing).items()
    }


@torch.no_grad()
def distill_targets(sequences: Sequence[TokenizedSample], k: int, logit_chunk: int, teacher: Teacher) -> SoftTargets:
    """Ask the base model for its distribution at every thinking token, cut to the `k` likeliest and renormalized.

    Args:
        sequences: All sequences of a training run.
        k: Tokens of each label.
        logit_chunk: Positions whose logits are in memory at once.
        teacher: The base model.
    """
    base, view = teacher.base, teacher.view
    with_thinking = [
        index
        for index, sequence in enumerate(sequences)
        if any(segment.part == "thinking" for segment in sequence.segments)
    ]
    rows = pack_rows(
        sequences,
        with_thinking,
        teacher.pass_tokens,
        share_prefixes=base.path.shares_prefixes,
        masked=base.path.is_masked,
    )
    soft_targets: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    with view.disable_adapters():
        for rows_of_pass in forward_passes(rows, teacher.pass_tokens, masked=base.path.is_masked):
            teacher.before_pass()
            batch = collate(rows_of_pass, base.device, masked=base.path.is_masked)
            targets = list(batch.targets)
            thinking = [i for i, target in enumerate(targets) if _is_thinking(sequences, target)]
            states = target_hidden_states(view, batch)
            for start in range(0, len(thinking), logit_chunk):
                chunk = thinking[start : start + logit_chunk]
                logprobs, ids = torch.log_softmax(view.logits(states[chunk]).float(), -1).topk(k, -1)
                probs = torch.softmax(logprobs, -1)
                for row, i in enumerate(chunk):
                    soft_targets[targets[i].sequence, targets[i].position] = ids[row].cpu(), probs[row].cpu()
    return soft_targets


def _is_thinking(sequences: Sequence[TokenizedSample], target: Target) -> bool:
    return sequences[target.sequence].segments[target.segment].part == "thinking"
