from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from vllm.lora.layers import LoRAMapping

from mindprint_server.engine import cpu_lora
from mindprint_server.engine.cpu_args import cpu_args
from mindprint_server.engine.cpu_lora import GroupedPunicaWrapper, group_by_slot
from mindprint_server.settings import Settings

SLOTS, WIDE, RANK = 3, 6, 2
FEW = cpu_lora.MAX_FLOAT32_TOKENS
WIDTHS = (4, 2)
"""Output widths of two layers that vLLM packs into one."""
slots_of_tokens = st.lists(st.integers(-1, SLOTS - 1), min_size=1, max_size=12)


@given(slots_of_tokens)
def test_every_token_of_an_adapter_is_found_once_and_none_of_the_base(slots: list[int]) -> None:
    layout = group_by_slot(torch.tensor(slots))
    tokens = torch.arange(len(slots))[layout.positions]
    found = {slot: tokens[group].tolist() for slot, group in layout.groups}
    assert found == {slot: [n for n, at in enumerate(slots) if at == slot] for slot in set(slots) - {-1}}
    assert sum(map(len, found.values())) == len(tokens)


def test_a_run_of_tokens_is_not_copied() -> None:
    assert group_by_slot(torch.tensor([-1, 0, 2, 2])).positions == slice(1, 4)
    assert isinstance(group_by_slot(torch.tensor([2, 0])).positions, Tensor)


def stacked(*shape: int) -> Tensor:
    return torch.randn(SLOTS, 1, *shape)


def prepared(slots: list[int]) -> GroupedPunicaWrapper:
    ops = GroupedPunicaWrapper(max_num_batched_tokens=64, max_batches=16, device="cpu", lora_config=SimpleNamespace())
    ids = [None if slot < 0 else slot + 10 for slot in range(SLOTS)]
    mapping = LoRAMapping(tuple(max(0, slot + 10) if slot >= 0 else 0 for slot in slots), (), is_prefill=True)
    ops.update_metadata(mapping, ids, SLOTS, 100)
    return ops


def test_logits_are_left_alone_however_many_rows_there_are() -> None:
    """`lm_head` has no adapter here. In a step that scores a prompt, there are more rows than sampled tokens."""
    y = torch.randn(5, 7)
    before = y.clone()
    prepared([0, 1]).add_lora_logits(y, torch.randn(5, 8), stacked(RANK, 8), stacked(7, RANK), 1.0)
    assert torch.equal(y, before)


@pytest.mark.parametrize(
    "count", [1, cpu_lora.MAX_FLOAT32_TOKENS, cpu_lora.MAX_FLOAT32_TOKENS + 1, 3 * cpu_lora.MAX_FLOAT32_TOKENS]
)
def test_few_and_many_tokens_are_added_in_bfloat16_alike(count: int) -> None:
    torch.manual_seed(count)
    x, a, b, y = (torch.randn(*shape).bfloat16() for shape in ((count, 64), (16, 64), (32, 16), (count, 96)))
    wanted = y.float()
    wanted[:, 32:64] += 0.5 * (x.float() @ a.float().T) @ b.float().T
    cpu_lora.add_lora(y[:, 32:64], x, a, b, 0.5)
    # Relative to the values that are added up: each rounding of bfloat16 is at most 1/256 of one.
    assert (y.float() - wanted).abs().max() <= wanted.abs().max() / 64


@pytest.mark.parametrize("few", [0, 10**6])
@given(slots=slots_of_tokens, scale=st.floats(0.5, 2))
def test_each_token_goes_through_its_own_adapter(few: int, slots: list[int], scale: float) -> None:
    torch.manual_seed(len(slots))
    a, b = tuple(stacked(RANK, WIDE) for _ in WIDTHS), tuple(stacked(width, RANK) for width in WIDTHS)
    x, y = torch.randn(len(slots), WIDE), torch.randn(len(slots), sum(WIDTHS))
    wanted = y.clone()
    for token, slot in enumerate(slots):
        if slot >= 0:
            wanted[token] += scale * torch.cat([b[n][slot, 0] @ a[n][slot, 0] @ x[token] for n in range(len(WIDTHS))])
    with patch.object(cpu_lora, "MAX_FLOAT32_TOKENS", few):
        prepared(slots).add_lora_linear(y, x, a, b, scale, WIDTHS)
    torch.testing.assert_close(y, wanted)
    if set(slots) == {-1}:
        assert torch.equal(y, wanted)


@pytest.mark.parametrize("few", [0, 10**6])
def test_broken_weights_of_one_adapter_reach_no_other_token(few: int) -> None:
    slots = [0, 1, -1, 1, 0]
    a, b = stacked(RANK, WIDE), stacked(WIDE, RANK)
    x, y = torch.randn(len(slots), WIDE), torch.randn(len(slots), WIDE)
    with patch.object(cpu_lora, "MAX_FLOAT32_TOKENS", few):
        prepared(slots).add_lora_linear(sound := y.clone(), x, (a,), (b,), 1.0, (WIDE,))
        a[1], b[1] = torch.nan, torch.inf
        prepared(slots).add_lora_linear(broken := y.clone(), x, (a,), (b,), 1.0, (WIDE,))
    assert torch.equal(broken[[0, 2, 4]], sound[[0, 2, 4]])
    assert broken[[1, 3]].isnan().all()


def test_vllm_uses_the_grouped_wrapper() -> None:
    from vllm.platforms.cpu import CpuPlatform

    assert CpuPlatform.get_punica_wrapper() == "mindprint_server.engine.cpu_lora.GroupedPunicaWrapper"


@pytest.mark.parametrize("slots", [[], [-1, -1]])
def test_a_step_of_the_base_alone_looks_at_no_slot(slots: list[int]) -> None:
    assert group_by_slot(torch.tensor(slots, dtype=torch.long)).groups == ()


def test_adapters_of_other_layers_are_refused() -> None:
    with pytest.raises(RuntimeError, match="no adapters of embed_tokens, lm_head on a CPU: take them out"):
        cpu_args(Settings(target_modules=("q_proj", "lm_head", "embed_tokens")))
