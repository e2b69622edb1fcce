"""LoRA on a CPU, one adapter's tokens at a time (docs/decisions/015).

vLLM's worker imports this module (`cpu_worker.py`). vLLM's own CPU operations copy the matrices of an adapter once per
token in each layer, and take "no adapter" for the last slot. Here the tokens of a step are sorted by adapter once. Each
adapter's tokens are then multiplied with its matrices in place, and tokens of the base model are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

MAX_FLOAT32_TOKENS = 16
"""Tokens of one adapter in a step up to which float32 is faster: each bfloat16 product costs 20 microseconds more."""
Positions = slice | Tensor
"""Positions of tokens in a step: a contiguous range, or their indices `[n]`."""


@dataclass(frozen=True)
class StepLayout:
    """The adapter tokens of one engine step, grouped by slot. Tokens of the base model are left out.

    Attributes:
        positions: Positions of the grouped tokens in the step.
        groups: Each slot in use, with the range of its tokens among the grouped ones.
    """

    positions: Positions
    groups: tuple[tuple[int, slice], ...]


def group_by_slot(slots: Tensor) -> StepLayout:
    """Group the tokens of a step by adapter slot.

    Args:
        slots: `[tokens]`, the slot of each token; -1 is the base model.
    """
    found, counts = torch.unique(slots[slots >= 0], return_counts=True)
    ends = counts.cumsum(0).tolist()
    groups = tuple(
        (slot, slice(end - n, end)) for slot, n, end in zip(found.tolist(), counts.tolist(), ends, strict=True)
    )
    positions = slots.argsort(stable=True)[int((slots < 0).sum()) :]
    first = int(positions[0]) if len(positions) else 0
    contiguous = torch.equal(positions, torch.arange(first, first + len(positions)))
    return StepLayout(slice(first, first + len(positions)) if contiguous else positions, groups)


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """The LoRA operations that vLLM's layers call. Only linear layers: the engine adapts no others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layout = StepLayout(slice(0, 0), ())

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Group the tokens of the next step. vLLM calls this once per step, before the first layer."""
        super().update_metadata(*args, **kwargs)
        self._layout = group_by_slot(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add `x @ A.T @ B.T * scale` to `y` in place, with each token's own A and B.

        Args:
            y: `[tokens, out]`. vLLM packs several layers into one: their outputs lie side by side.
            x: `[tokens, in]`.
            lora_a_stacked: A of each packed layer, `[slots, 1, rank, in]`.
            lora_b_stacked: B of each packed layer, `[slots, 1, width, rank]`.
            scale: Factor on the product.
            output_slices: Width of each packed layer; the sum is `out`.
        """
        positions, groups = self._layout.positions, self._layout.groups
        if not groups:
            return
        inputs, begin = x[positions], 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            out = y[:, begin : begin + width]
            begin += width
            added = out[positions] if isinstance(positions, slice) else inputs.new_zeros(len(inputs), width)
            for slot, group in groups:
                add_lora(added[group], inputs[group], a[slot, 0], b[slot, 0], scale)
            if not isinstance(positions, slice):
                out.index_add_(0, positions, added)

    def add_lora_logits(self, y: Tensor, *_: Any, **__: Any) -> None:
        """Leave the logits as they are: no adapter changes `lm_head` on a CPU (`engine/vllm.py` refuses it).

        vLLM 0.32 wraps `lm_head` all the same. Its own operation has a row for each sampled token, and so fails on the
        logits of a prompt in a step that samples two.

        Args:
            y: `[rows, vocabulary]`, the logits.
        """


def add_lora(out: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """Add `x @ a.T @ b.T * scale` to `out` in place.

    Args:
        out: `[n, width]`.
        x: `[n, in]`.
        a: `[rank, in]`.
        b: `[width, rank]`.
        scale: Factor on the product.
    """
    if len(x) <= MAX_FLOAT32_TOKENS:
        out.add_((x.float() @ a.T.float()) @ b.T.float(), alpha=scale)
    else:
        out.addmm_(x @ a.T, b.T, alpha=scale)


def _wrapper_name(cls: type[CpuPlatform]) -> str:
    return f"{__name__}.{GroupedPunicaWrapper.__name__}"


CpuPlatform.get_punica_wrapper = classmethod(_wrapper_name)
