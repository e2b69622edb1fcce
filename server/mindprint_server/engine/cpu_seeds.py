"""Random generators that can go back, for seeded requests on a CPU (docs/decisions/041).

vLLM discards the token that it samples at the end of a piece of a prompt, and then sets the request's generator back
by an offset. A generator of a CPU has no offset: it raises, and the engine ends. Here it goes back to the state that it
had when the request joined the batch. Importing this module changes vLLM's batch in this process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch


class RewindableGenerator(torch.Generator):
    """A generator of a CPU that `set_offset` sets back to its last mark."""

    _marked: Tensor

    @classmethod
    def copy_of(cls, generator: torch.Generator) -> RewindableGenerator:
        """Return a generator with the state of another one, and mark that state."""
        copy = cls()
        copy.set_state(generator.get_state())
        copy.mark()
        return copy

    def mark(self) -> None:
        """Remember the present state."""
        self._marked = self.get_state()

    def get_offset(self) -> int:
        """Return 0: there is no offset to count from."""
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        """Go back to the last mark, whatever the offset."""
        return self.set_state(self._marked)


_add_request = InputBatch.add_request


def add_request(self: InputBatch, request: CachedRequestState) -> Any:
    """Add a request to the batch, and mark the state of its generator.

    A request joins the batch when it is new and when it goes on after a pause. Only while its prompt is computed are
    tokens discarded, so the mark is the state after the last token that was kept.
    """
    if isinstance(request.generator, RewindableGenerator):
        request.generator.mark()
    elif request.generator is not None:
        request.generator = RewindableGenerator.copy_of(request.generator)
    return _add_request(self, request)


InputBatch.add_request = add_request
