"""LoRA on a CPU, one adapter's tokens at a time (docs/decisions/015). Loaded by vLLM, in its worker process.

vLLM's own operations copy an adapter's matrices once for every token, in each layer, and look up "no adapter" as the
last slot. Here the tokens of a step are sorted by adapter once, and each adapter's are multiplied with its matrices
where these lie; tokens of the base are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

FEW = 16
"""Tokens of an adapter in a step up to which float32 is faster than bfloat16, whose products begin with 20 microseconds
each."""
Places = slice | Tensor
"""Where tokens stand in a step: a run of them, or their places."""


@dataclass(frozen=True)
class Step:
    """The adapters' tokens of a step, sorted by slot; those of the base are left out."""

    places: Places
    runs: tuple[tuple[int, slice], ...]
    """Each slot that is looked at, and which of the sorted tokens are its."""


def sorted_by_slot(slots: Tensor) -> Step:
    """`slots`: [tokens], each token's slot, -1 for the base's."""
    found, counts = torch.unique(slots[slots >= 0], return_counts=True)
    ends = counts.cumsum(0).tolist()
    runs = tuple(
        (slot, slice(end - n, end)) for slot, n, end in zip(found.tolist(), counts.tolist(), ends, strict=True)
    )
    places = slots.argsort(stable=True)[int((slots < 0).sum()) :]
    first = int(places[0]) if len(places) else 0
    run = torch.equal(places, torch.arange(first, first + len(places)))
    return Step(slice(first, first + len(places)) if run else places, runs)


class ByAdapter(PunicaWrapperCPU):  # type: ignore[misc]
    """What vLLM's layers call; only the linear layers, for the engine applies adapters to no others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._step = Step(slice(0, 0), ())

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Once a step, before the first layer."""
        super().update_metadata(*args, **kwargs)
        self._step = sorted_by_slot(self.token_lora_indices)

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
        places, runs = self._step.places, self._step.runs
        if not runs:
            return
        seen, begin = x[places], 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            out = y[:, begin : begin + width]
            begin += width
            added = out[places] if isinstance(places, slice) else seen.new_zeros(len(seen), width)
            for slot, run in runs:
                add(added[run], seen[run], a[slot, 0], b[slot, 0], scale)
            if not isinstance(places, slice):
                out.index_add_(0, places, added)


def add(out: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """Adds `x @ a.T @ b.T * scale` to `out` in place. x: [n, in], a: [rank, in], b: [width, rank], out: [n, width]."""
    if len(x) <= FEW:
        out.add_((x.float() @ a.T.float()) @ b.T.float(), alpha=scale)
    else:
        out.addmm_(x @ a.T, b.T, alpha=scale)


class Worker:
    """Named to vLLM as an extension of its worker. It adds nothing: what counts is that the worker imports this."""


def _by_adapter(cls: type[CpuPlatform]) -> str:
    return f"{__name__}.{ByAdapter.__name__}"


CpuPlatform.get_punica_wrapper = classmethod(_by_adapter)
