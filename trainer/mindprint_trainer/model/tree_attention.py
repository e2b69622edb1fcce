"""Attention over prefix trees that lie side by side in one long row, without a mask and without padding.

The row is cut into blocks. A block's tokens attend to whole ranges of the row, their ancestors, and causally to each
other. So a prefix that branches share is computed once, and scores that a mask would discard are not computed. On a
CPU in bfloat16 it takes half the time of torch's own kernel, whose backward pass is slow.
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
"""The name under which transformers knows this attention."""


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
    """Compute attention as transformers' attention interface asks for it.

    Args:
        module: The attention module; unused.
        query: `[1, heads, tokens, head_dim]`.
        key: `[1, kv_heads, tokens, head_dim]`.
        value: `[1, kv_heads, tokens, head_dim]`.
        attention_mask: Unused; `blocks` say which tokens attend to which.
        scaling: Factor of the scores, usually head_dim ** -0.5.
        blocks: The blocks of all rows, shifted to their places in the pass.

    Returns:
        The output `[1, tokens, heads, head_dim]`, and None instead of attention weights.
    """
    return _TreeAttentionFunction.apply(query, key, value, blocks, scaling).unsqueeze(0), None  # type: ignore[no-untyped-call]


AttentionInterface.register(ATTENTION_NAME, attend_to_tree)


class _TreeAttentionFunction(Function):
    """Softmax attention block by block.

    The attention probabilities are kept for the backward pass: they are small compared with the MLP's activations.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[AttentionBlock], scaling: float
    ) -> Tensor:
        kv_heads, tokens, head_dim = key.shape[1:]
        queries = query[0].view(kv_heads, -1, tokens, head_dim)
        output = query.new_empty((tokens, query.shape[1], head_dim))
        causal = torch.full((longest := max(map(len, blocks)),) * 2, float("-inf"), dtype=query.dtype).triu_(1)
        causal = causal.to(query.device).expand(kv_heads, queries.shape[1], longest, longest)
        ctx.kept = []
        for block in blocks:
            size, visible = len(block), block.visible_tokens
            scaled = (queries[:, :, block.start : block.stop] * scaling).flatten(1, 2)
            scores = torch.bmm(scaled, _gather_visible(key, block).transpose(1, 2)).view(kv_heads, -1, size, visible)
            scores[..., -size:] += causal[..., :size, :size]
            probs = torch.softmax(scores, -1).flatten(1, 2)
            attended = torch.bmm(probs, _gather_visible(value, block)).view(-1, size, head_dim)
            output[block.start : block.stop] = attended.transpose(0, 1)
            ctx.kept.append((block, scaled, probs))
        ctx.save_for_backward(key, value)
        ctx.scaling = scaling
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        key, value = ctx.saved_tensors
        (grad_output,) = gradients  # [tokens, heads, head_dim]
        kv_heads, tokens, head_dim = key.shape[1:]
        grad_query = grad_output.new_empty((kv_heads, grad_output.shape[1] // kv_heads, tokens, head_dim))
        # Sum in float32: many blocks add to shared keys, and bfloat16 would lose small terms.
        grad_key = torch.zeros_like(key[0], dtype=torch.float32)
        grad_value = torch.zeros_like(grad_key)
        while ctx.kept:
            block, scaled, probs = ctx.kept.pop()
            grad_block = grad_output[block.start : block.stop].transpose(0, 1).reshape(kv_heads, -1, head_dim)
            _scatter_add(grad_value, block, torch.bmm(probs.transpose(1, 2), grad_block))
            grad_probs = torch.bmm(grad_block, _gather_visible(value, block).transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
            _scatter_add(grad_key, block, torch.bmm(grad_scores.transpose(1, 2), scaled))
            grad_scaled = torch.bmm(grad_scores, _gather_visible(key, block)).view(kv_heads, -1, len(block), head_dim)
            grad_query[:, :, block.start : block.stop] = grad_scaled * ctx.scaling
        return (
            grad_query.flatten(0, 1).unsqueeze(0),
            grad_key.to(key.dtype).unsqueeze(0),
            grad_value.to(value.dtype).unsqueeze(0),
            None,
            None,
        )


def _gather_visible(tensor: Tensor, block: AttentionBlock) -> Tensor:
    """Select `[kv_heads, visible tokens, head_dim]` from `[1, kv_heads, tokens, head_dim]`."""
    pieces = [tensor[0, :, start:stop] for start, stop in block.visible]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def _scatter_add(total: Tensor, block: AttentionBlock, part: Tensor) -> None:
    """Add gradients `[kv_heads, visible tokens, head_dim]` to their places in `[kv_heads, tokens, head_dim]`."""
    begin = 0
    for start, stop in block.visible:
        total[:, start:stop] += part[:, begin : begin + stop - start]
        begin += stop - start
