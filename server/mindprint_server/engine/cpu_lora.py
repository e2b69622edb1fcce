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

FEW = 512
"""Tokens times slots, for each of several adapters in a step, up to which all adapters' A are multiplied at once."""
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
        few = len(runs) > 1 and len(seen) * len(lora_a_stacked[0]) <= FEW * len(runs)
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            rank = a.shape[2]
            # Of few tokens all adapters' A at once: a call costs more than what it computes in vain. What a token's low
            # row holds of other adapters is not looked at, whatever is in them.
            low = seen @ a.view(-1, a.shape[-1]).T if few else None
            added = seen.new_empty(len(seen), width)
            for slot, run in runs:
                mine = seen[run] @ a[slot, 0].T if low is None else low[run, slot * rank : (slot + 1) * rank]
                torch.mm(mine, b[slot, 0].T, out=added[run])
            if scale != 1:
                added *= scale
            out = y[:, begin : begin + width]
            if isinstance(places, slice):
                out[places] += added
            else:
                out.index_add_(0, places, added)
            begin += width


class Worker:
    """Named to vLLM as an extension of its worker. It adds nothing: what counts is that the worker imports this."""


def _by_adapter(cls: type[CpuPlatform]) -> str:
    return f"{__name__}.{ByAdapter.__name__}"


CpuPlatform.get_punica_wrapper = classmethod(_by_adapter)
