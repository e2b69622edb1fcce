"""The loss: weights times (mean over thinking + mean over answer), averaged over the sequences of a step.

Logits are computed only at target positions, in float32, a bounded number at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mindprint_trainer.batching import Row, Target
from mindprint_trainer.samples import Encoded, Kind, Part


@dataclass(frozen=True, slots=True)
class Weights:
    kinds: Mapping[Kind, float]
    parts: Mapping[Part, float]

    def of(self, sequences: Sequence[Encoded], targets: Iterable[Target], step_size: int) -> list[float]:
        """What each target's negative log-likelihood counts in the loss of a step of `step_size` sequences."""
        weights = []
        for target in targets:
            sequence = sequences[target.sequence]
            segment = sequence.segments[target.segment]
            weights.append(self.kinds[sequence.kind] * self.parts[segment.part] / len(segment) / step_size)
        return weights


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows side by side, padded on the right: B rows of T tokens with N targets in all."""

    ids: Tensor
    """[B, T]"""
    positions: Tensor | None
    mask: Tensor | None
    """[B, 1, T, T], true where the query (third axis) may look; None where plain causal attention does."""
    at: Tensor
    """[N], places of the predicting tokens in the flattened [B * T]"""
    tokens: Tensor
    """[N], the ids that are right there"""
    targets: tuple[Target, ...]


def collate(rows: Sequence[Row], device: torch.device, pad: int = 0) -> Batch:
    """Padding lies behind every row's tokens, where no real token looks."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    at: list[int] = []
    targets: list[Target] = []
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row.ids)
        positions[number, : len(row)] = torch.tensor(row.positions)
        at += [number * width + target.at for target in row.targets]
        targets += row.targets
    plain = all(row.plain for row in rows)
    return Batch(
        ids=ids.to(device),
        positions=None if plain else positions.to(device),
        mask=None if plain else torch.stack([sight(row, width) for row in rows]).unsqueeze(1).to(device),
        at=torch.tensor(at, device=device),
        tokens=torch.tensor([target.token for target in targets], device=device),
        targets=tuple(targets),
    )


def sight(row: Row, width: int) -> Tensor:
    """[width, width]: each token sees itself and its ancestors. Padding sees itself, for softmax needs something."""
    seen = torch.eye(width, dtype=torch.bool)
    for index, parent in enumerate(row.parents):
        if parent >= 0:
            seen[index] |= seen[parent]
    return seen


def hidden(model: Any, batch: Batch) -> Tensor:
    """[N, H]: the transformer body's output at the predicting positions."""
    out = model.get_decoder()(
        input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    )
    flat: Tensor = out.last_hidden_state.flatten(0, 1)
    return flat.index_select(0, batch.at)


def nll(model: Any, states: Tensor, tokens: Tensor) -> Tensor:
    """[N]: -log p of `tokens`, by a softmax in float32 over the head's logits."""
    logits = model.get_output_embeddings()(states).float()
    return functional.cross_entropy(logits, tokens, reduction="none")


def backward(model: Any, batch: Batch, weights: Sequence[float], chunk: int) -> list[float]:
    """Adds the gradient of sum(weight * nll) to the parameters and returns the N values of -log p.

    The head runs on `chunk` targets at a time up to a detached copy of the states; the body is then run through
    backwards once. So the memory for logits is bounded whatever the number of targets.
    """
    states = hidden(model, batch)
    leaf = states.detach().requires_grad_()
    scale = torch.tensor(weights, device=states.device)
    values: list[float] = []
    for start in range(0, len(weights), chunk):
        piece = slice(start, start + chunk)
        losses = nll(model, leaf[piece], batch.tokens[piece])
        (losses * scale[piece]).sum().backward()  # type: ignore[no-untyped-call]
        values += losses.detach().tolist()
    states.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return values


@torch.inference_mode()
def measure(model: Any, batch: Batch, chunk: int) -> list[float]:
    """The N values of -log p, without gradients."""
    states = hidden(model, batch)
    values: list[float] = []
    for start in range(0, len(states), chunk):
        piece = slice(start, start + chunk)
        values += nll(model, states[piece], batch.tokens[piece]).tolist()
    return values
