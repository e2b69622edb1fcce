"""Attention by blocks against torch's own under an explicit mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mindprint_trainer.data import packing
from mindprint_trainer.data.packing import PackedRow, pack_rows
from mindprint_trainer.data.tokenization import Segment, TokenizedSample
from mindprint_trainer.model.tree_attention import attend_to_tree
from mindprint_trainer.objective.batch import collate, visibility_mask


def trees() -> list[PackedRow]:
    """Two trees: one that branches twice, and a plain one."""
    ids = [(1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 8), (1, 2, 9, 9), (5, 5, 5)]
    made = [TokenizedSample("fast", f"e{one[0]}", one, (Segment("answer", len(one) - 1, len(one)),)) for one in ids]
    return pack_rows(made, range(4), 100, share_prefixes=True)


@pytest.mark.parametrize("block", [1, 2, 3, 100])
@pytest.mark.parametrize(("heads", "shared"), [(4, 2), (3, 3), (4, 1)])
def test_it_is_attention_under_the_trees_mask(
    monkeypatch: pytest.MonkeyPatch, block: int, heads: int, shared: int
) -> None:
    monkeypatch.setattr(packing, "MAX_BLOCK_TOKENS", block)
    made = trees()
    assert len(made) == 2
    batch = collate(made, torch.device("cpu"), masked=False)
    tokens = batch.ids.shape[1]
    mask = torch.block_diag(*(visibility_mask(row, len(row)) for row in made)).bool()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    parts = [torch.randn(1, count, tokens, 8, requires_grad=True) for count in (heads, shared, shared)]
    query, key, value = parts
    out, _ = attend_to_tree(torch.nn.Identity(), query, key, value, None, 8**-0.5, blocks=batch.blocks)
    keys, values = (part.repeat_interleave(heads // shared, dim=1) for part in (key, value))
    want = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-4)
    push = torch.randn_like(out)
    for one, other in zip(gradients(out, push, parts), gradients(want, push, parts), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def gradients(out: Tensor, push: Tensor, parts: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, parts, push)
