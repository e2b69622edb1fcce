"""The loss: weights times (mean over thinking + mean over answer), averaged over the sequences of a step.

Logits are computed only at target positions, in float32, a bounded number at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mindprint_trainer.data.packing import AttentionBlock, PackedRow, Target
from mindprint_trainer.data.tokenization import Kind, Part, TokenizedSample
from mindprint_trainer.model.lora import LoraModelView, TokenSpan


@dataclass(frozen=True, slots=True)
class TargetWeights:
    kinds: Mapping[Kind, float]
    parts: Mapping[Part, float]

    def of(self, sequences: Sequence[TokenizedSample], targets: Iterable[Target], step_size: int) -> list[float]:
        """What each target's negative log-likelihood counts in the loss of a step of `step_size` sequences."""
        weights = []
        for target in targets:
            sequence = sequences[target.sequence]
            segment = sequence.segments[target.segment]
            weights.append(self.kinds[sequence.kind] * self.parts[segment.part] / len(segment) / step_size)
        return weights


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """What N targets should be, each as a distribution over k tokens."""

    ids: Tensor
    """[N, k]"""
    chances: Tensor
    """[N, k], each row sums to 1"""

    def __getitem__(self, piece: slice) -> SoftLabels:
        return SoftLabels(self.ids[piece], self.chances[piece])

    @staticmethod
    def joined(parts: Sequence[SoftLabels]) -> SoftLabels | None:
        """One after the other, each as wide as the widest; None for nothing."""
        if not parts:
            return None
        k = max(part.ids.shape[1] for part in parts)
        return SoftLabels(
            torch.cat([functional.pad(part.ids, (0, k - part.ids.shape[1])) for part in parts]),
            torch.cat([functional.pad(part.chances, (0, k - part.chances.shape[1])) for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class AdapterTargets:
    """What of a pass belongs to one adapter."""

    span: TokenSpan
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The rows of a pass with N targets in all: B rows of T tokens under a mask, padded on the right, or B = 1."""

    ids: Tensor
    """[B, T]"""
    positions: Tensor | None
    mask: Tensor | None
    """[B, 1, T, T], true where the query (third axis) may look; None where plain causal attention or `blocks` do."""
    blocks: tuple[AttentionBlock, ...]
    """Who sees what where there is no mask."""
    at: Tensor
    """[N], places of the predicting tokens in the flattened [B * T]"""
    tokens: Tensor
    """[N], the ids that are right there"""
    shares: tuple[AdapterTargets, ...]
    """By adapter, in the order of the targets."""

    @property
    def targets(self) -> Iterator[Target]:
        return (target for share in self.shares for target in share.targets)


def collate(rows: Sequence[PackedRow], device: torch.device, *, masked: bool, pad: int = 0) -> PackedBatch:
    """Rows of one owner must be neighbours. Padding lies behind every row's tokens, where no real token looks."""
    width = max(len(row) for row in rows) if masked else 0
    plain = masked and all(row.plain for row in rows)
    starts, end = [], 0
    for row in rows:
        starts.append(end)
        end += width or len(row)
    ids, positions = torch.full((end,), pad), torch.zeros(end, dtype=torch.long)
    at: list[int] = []
    shares: list[AdapterTargets] = []
    for owner, owned in groupby(zip(starts, rows, strict=True), key=lambda pair: pair[1].owner):
        mine = list(owned)
        for start, row in mine:
            ids[start : start + len(row)] = torch.tensor(row.ids)
            positions[start : start + len(row)] = torch.tensor(row.positions)
            at += [start + target.at for target in row.targets]
        span = TokenSpan(owner, mine[0][0], mine[-1][0] + (width or len(mine[-1][1])))
        shares.append(AdapterTargets(span, tuple(target for _, row in mine for target in row.targets)))
    shape = (len(rows), width) if masked else (1, end)
    return PackedBatch(
        ids=ids.view(shape).to(device),
        positions=None if plain else positions.view(shape).to(device),
        mask=torch.stack([visibility_mask(row, width) for row in rows]).unsqueeze(1).to(device)
        if masked and not plain
        else None,
        blocks=() if masked else tuple(b.moved(s) for s, row in zip(starts, rows, strict=True) for b in row.blocks),
        at=torch.tensor(at, device=device),
        tokens=torch.tensor([target.token for share in shares for target in share.targets], device=device),
        shares=tuple(shares),
    )


def visibility_mask(row: PackedRow, width: int) -> Tensor:
    """[width, width]: each token sees itself and its ancestors. Padding sees itself, for softmax needs something."""
    seen = torch.eye(width, dtype=torch.bool)
    for index, parent in enumerate(row.parents):
        if parent >= 0:
            seen[index] |= seen[parent]
    return seen


def target_hidden_states(stack: LoraModelView, batch: PackedBatch) -> Tensor:
    """[N, H]: the transformer body's output at the predicting positions, each token through its own adapter."""
    stack.route([share.span for share in batch.shares])
    extra = {"blocks": batch.blocks} if batch.blocks else {}
    out = stack.model.get_decoder()(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False, **extra
    )
    flat: Tensor = out.last_hidden_state.flatten(0, 1)
    return flat.index_select(0, batch.at)


def nll(model: Any, states: Tensor, tokens: Tensor) -> Tensor:
    """[N]: -log p of `tokens`, by a softmax in float32 over the head's logits."""
    logits = model.get_output_embeddings()(states).float()
    return functional.cross_entropy(logits, tokens, reduction="none")


def soft_cross_entropy(model: Any, states: Tensor, labels: SoftLabels) -> Tensor:
    """[N]: the cross-entropy of the model's distribution against the labels'."""
    logs = torch.log_softmax(model.get_output_embeddings()(states).float(), -1)
    return -(logs.gather(1, labels.ids) * labels.chances).sum(1)


def backward(
    stack: LoraModelView, batch: PackedBatch, weights: Sequence[float], labels: SoftLabels | None, chunk: int
) -> list[float]:
    """Adds the gradient of sum(weight * loss) to the adapters' parameters and returns the N losses.

    The head runs on `chunk` targets at a time up to a detached copy of the states; the body is then run through
    backwards once. So the memory for logits is bounded whatever the number of targets.
    """
    states = target_hidden_states(stack, batch)
    leaf = states.detach().requires_grad_()
    scale = torch.tensor(weights, device=states.device)
    values: list[float] = []
    for start in range(0, len(weights), chunk):
        piece = slice(start, start + chunk)
        if labels is None:
            losses = nll(stack.model, leaf[piece], batch.tokens[piece])
        else:
            losses = soft_cross_entropy(stack.model, leaf[piece], labels[piece])
        (losses * scale[piece]).sum().backward()  # type: ignore[no-untyped-call]
        values += losses.detach().tolist()
    states.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return values


@torch.inference_mode()
def measure_nll(stack: LoraModelView, batch: PackedBatch, chunk: int) -> list[float]:
    """The N values of -log p, without gradients."""
    states = target_hidden_states(stack, batch)
    values: list[float] = []
    for start in range(0, len(states), chunk):
        piece = slice(start, start + chunk)
        values += nll(stack.model, states[piece], batch.tokens[piece]).tolist()
    return values
