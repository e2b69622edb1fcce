"""One forward pass: packed rows as tensors, and the hidden states that predict their targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from mindprint_trainer.data.packing import AttentionBlock, PackedRow, Target
from mindprint_trainer.model.lora import LoraModelView, TokenSpan


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """The part of a pass that belongs to one adapter."""

    span: TokenSpan
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """The rows of one pass as tensors. Without a mask, all rows lie in one: `rows` is 1 and nothing is padded."""

    ids: Tensor
    """`[rows, width]` token ids, padded on the right."""
    position_ids: Tensor | None
    """`[rows, width]`; None where positions count up from 0."""
    mask: Tensor | None
    """`[rows, 1, width, width]`, true where the query (third axis) attends to the key. None: `blocks` or plain causal
    attention are used instead."""
    blocks: tuple[AttentionBlock, ...]
    """Which tokens attend to which, if there is no mask."""
    predictors: Tensor
    """`[targets]`, indices in the flattened `[rows * width]` of the tokens that predict."""
    tokens: Tensor
    """`[targets]`, the right token ids."""
    parts: tuple[AdapterPart, ...]
    """Parts by adapter, in the order of the targets."""

    @property
    def targets(self) -> Iterator[Target]:
        """Iterate over all targets, in the order of `predictors`."""
        return (target for part in self.parts for target in part.targets)


def collate(rows: Sequence[PackedRow], device: torch.device, *, masked: bool, pad: int = 0) -> PackedBatch:
    """Build the tensors of one pass.

    Args:
        rows: The rows; those of one adapter must be neighbors.
        device: Where the tensors go.
        masked: Whether rows are padded and attention uses a mask.
        pad: Token id of the padding. It follows each row's tokens, where no real token attends to it.
    """
    width = max(len(row) for row in rows) if masked else 0
    causal = masked and all(row.is_chain for row in rows)
    starts, end = [], 0
    for row in rows:
        starts.append(end)
        end += width or len(row)
    ids, positions = torch.full((end,), pad), torch.zeros(end, dtype=torch.long)
    predictors: list[int] = []
    parts: list[AdapterPart] = []
    for adapter, placed in groupby(zip(starts, rows, strict=True), key=lambda pair: pair[1].adapter):
        rows_of_adapter = list(placed)
        for start, row in rows_of_adapter:
            ids[start : start + len(row)] = torch.tensor(row.ids)
            positions[start : start + len(row)] = torch.tensor(row.positions)
            predictors += [start + target.row_index for target in row.targets]
        last_start, last_row = rows_of_adapter[-1]
        span = TokenSpan(adapter, rows_of_adapter[0][0], last_start + (width or len(last_row)))
        parts.append(AdapterPart(span, tuple(target for _, row in rows_of_adapter for target in row.targets)))
    shape = (len(rows), width) if masked else (1, end)
    mask = torch.stack([visibility_mask(row, width) for row in rows]).unsqueeze(1) if masked and not causal else None
    return PackedBatch(
        ids=ids.view(shape).to(device),
        position_ids=None if causal else positions.view(shape).to(device),
        mask=None if mask is None else mask.to(device),
        blocks=()
        if masked
        else tuple(block.shifted(start) for start, row in zip(starts, rows, strict=True) for block in row.blocks),
        predictors=torch.tensor(predictors, device=device),
        tokens=torch.tensor([target.token for part in parts for target in part.targets], device=device),
        parts=tuple(parts),
    )


def visibility_mask(row: PackedRow, width: int) -> Tensor:
    """Return which tokens of a row attend to which, padded to `width`.

    Returns:
        `[width, width]`, true where the first token attends to the second: itself or an ancestor. Padding attends to
        itself, since softmax needs one entry.
    """
    visible = torch.eye(width, dtype=torch.bool)
    for index, parent in enumerate(row.parents):
        if parent >= 0:
            visible[index] |= visible[parent]
    return visible


def target_hidden_states(view: LoraModelView, batch: PackedBatch) -> Tensor:
    """Run the model in front of `view.logits`, each token through its own adapter.

    Returns:
        The hidden states `[targets, hidden]` of the predicting tokens.
    """
    view.route([part.span for part in batch.parts])
    blocks = {"blocks": batch.blocks} if batch.blocks else {}
    states = view.hidden_states(batch.ids, mask=batch.mask, position_ids=batch.position_ids, **blocks)
    return states.flatten(0, 1).index_select(0, batch.predictors)
