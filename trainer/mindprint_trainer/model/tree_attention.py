"""Attention over prefix trees that lie side by side in one long row, without a mask and without padding.

The row is cut into blocks of neighbours. A block's tokens see whole ranges of the row, their ancestors, and each other
causally; so what a tree's branches have in common is computed once, and what they must not see is not computed at all.
On a CPU in bfloat16 that takes half the time of torch's own kernel, whose backward pass is the slow part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from transformers import AttentionInterface

from mindprint_trainer.data.packing import AttentionBlock

ATTENTION_NAME = "mindprint_tree"
"""What a model's configuration calls this attention."""


def attend_to_tree(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    blocks: Sequence[AttentionBlock] = (),
    **_: Any,
) -> tuple[Tensor, None]:
    """Queries [1, heads, T, D], keys and values [1, shared heads, T, D], to [1, T, heads, D]."""
    return _TreeAttentionFunction.apply(query, key, value, blocks, scaling).unsqueeze(0), None  # type: ignore[no-untyped-call]


AttentionInterface.register(ATTENTION_NAME, attend_to_tree)


class _TreeAttentionFunction(Function):
    """The probabilities stay until the backward pass: they are small next to what the MLP keeps."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[AttentionBlock], scaling: float
    ) -> Tensor:
        groups, tokens, width = key.shape[1:]
        queries = query[0].view(groups, -1, tokens, width)
        out = query.new_empty((tokens, query.shape[1], width))
        later = torch.full((longest := max(map(len, blocks)),) * 2, float("-inf"), dtype=query.dtype).triu_(1)
        later = later.to(query.device).expand(groups, queries.shape[1], longest, longest)
        ctx.kept = []
        for block in blocks:
            size, reach = len(block), block.reach
            asked = (queries[:, :, block.start : block.stop] * scaling).flatten(1, 2)
            scores = torch.bmm(asked, _gather_visible(key, block).transpose(1, 2)).view(groups, -1, size, reach)
            scores[..., -size:] += later[..., :size, :size]
            chances = torch.softmax(scores, -1).flatten(1, 2)
            answer = torch.bmm(chances, _gather_visible(value, block)).view(-1, size, width)
            out[block.start : block.stop] = answer.transpose(0, 1)
            ctx.kept.append((block, asked, chances))
        ctx.save_for_backward(key, value)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        key, value = ctx.saved_tensors
        (gradient,) = gradients  # [T, heads, D]
        groups, tokens, width = key.shape[1:]
        of_query = gradient.new_empty((groups, gradient.shape[1] // groups, tokens, width))
        # Many blocks add to the keys that they share: in float32, or small terms would be rounded away.
        of_key = torch.zeros_like(key[0], dtype=torch.float32)
        of_value = torch.zeros_like(of_key)
        while ctx.kept:
            block, asked, chances = ctx.kept.pop()
            pushed = gradient[block.start : block.stop].transpose(0, 1).reshape(groups, -1, width)
            _scatter_add(of_value, block, torch.bmm(chances.transpose(1, 2), pushed))
            of_chances = torch.bmm(pushed, _gather_visible(value, block).transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_chances, chances, -1, chances.dtype)
            _scatter_add(of_key, block, torch.bmm(of_scores.transpose(1, 2), asked))
            of_asked = torch.bmm(of_scores, _gather_visible(key, block)).view(groups, -1, len(block), width)
            of_query[:, :, block.start : block.stop] = of_asked * ctx.scaling
        return (
            of_query.flatten(0, 1).unsqueeze(0),
            of_key.to(key.dtype).unsqueeze(0),
            of_value.to(value.dtype).unsqueeze(0),
            None,
            None,
        )


def _gather_visible(whole: Tensor, block: AttentionBlock) -> Tensor:
    """[shared heads, seen, D]: the rows of [1, shared heads, T, D] that a block looks at."""
    pieces = [whole[0, :, start:stop] for start, stop in block.sees]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def _scatter_add(total: Tensor, block: AttentionBlock, part: Tensor) -> None:
    """The reverse of `_gather_visible`, for gradients."""
    begin = 0
    for start, stop in block.sees:
        total[:, start:stop] += part[:, begin : begin + stop - start]
        begin += stop - start
