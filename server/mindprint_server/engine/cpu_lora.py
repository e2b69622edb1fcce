"""LoRA on a CPU, one adapter's tokens at a time (docs/decisions/015). Loaded by vLLM, in its worker process.

vLLM's own operations copy an adapter's matrices once for every token, in each layer, and look up "no adapter" as the
last slot. Here the tokens of a step are sorted by adapter once, and each adapter's are multiplied with its matrices
where these lie; tokens of the base are not touched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

Rows = slice | Tensor
"""Where one adapter's tokens stand in a step: a run of them, or their places."""


def rows_by_slot(slots: Tensor) -> list[tuple[int, Rows]]:
    """Which slots are looked at, and by which tokens. `slots`: [tokens], each token's slot, -1 for the base's."""
    found: list[tuple[int, Rows]] = []
    for slot in torch.unique(slots[slots >= 0]).tolist():
        places = torch.nonzero(slots == slot).flatten()
        first, last = int(places[0]), int(places[-1])
        found.append((slot, slice(first, last + 1) if last - first + 1 == len(places) else places))
    return found


class ByAdapter(PunicaWrapperCPU):  # type: ignore[misc]
    """What vLLM's layers call; only the linear layers, for the engine applies adapters to no others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows: list[tuple[int, Rows]] = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Once a step, before the first layer."""
        super().update_metadata(*args, **kwargs)
        self._rows = rows_by_slot(self.token_lora_indices)

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
        """Adds `x @ A.T @ B.T * scale` to `y` in place, through each token's own A and B.

        x: [tokens, in]. y: [tokens, out], side by side the outputs of the layers that vLLM has packed into one, their
        widths in `output_slices`. A and B of each: [slots, 1, rank, in] and [slots, 1, width, rank].
        """
        for slot, rows in self._rows:
            seen, start = x[rows], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                added = (seen @ a[slot, 0].T).mul_(scale) @ b[slot, 0].T
                y[rows, start : start + width] += added
                start += width


class Worker:
    """Named to vLLM as an extension of its worker. It adds nothing: what counts is that the worker imports this."""


def _by_adapter(cls: type[CpuPlatform]) -> str:
    return f"{__name__}.{ByAdapter.__name__}"


CpuPlatform.get_punica_wrapper = classmethod(_by_adapter)
