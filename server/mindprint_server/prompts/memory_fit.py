"""Makes a memory fit the model: its oldest episodes go first, then the profile. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from mindprint_server.prompts.types import RecalledMemory

T = TypeVar("T")


def fit_memory(memory: RecalledMemory, fits: Callable[[RecalledMemory], bool]) -> tuple[RecalledMemory, int]:
    """Drop the oldest episodes, then the profile, until a memory fits or is empty.

    Args:
        memory: What was recalled.
        fits: Returns whether the prompt fits the model with this memory.

    Returns:
        The memory that is left, and how many parts were dropped.
    """
    memories = list(shorter_memories(memory))
    found = first_that_fits(lambda number: number if fits(memories[number]) else None, len(memories))
    dropped = len(memories) - 1 if found is None else found
    return memories[dropped], dropped


def first_that_fits(attempt: Callable[[int], T | None], count: int) -> T | None:
    """Return the first of `count` attempts that gives something. If one does, all later ones do too.

    Most prompts fit as they are. For the others the number of attempts grows with the logarithm of `count`: each one
    tokenizes a whole prompt while nothing else runs.
    """
    if count == 0:
        return None
    if (best := attempt(0)) is not None or count == 1:
        return best
    # The first that fits lies in [low, high]; `high` is known to fit.
    low, high = 1, count - 1
    if (best := attempt(high)) is None:
        return None
    while low < high:
        middle = (low + high) // 2
        if (found := attempt(middle)) is None:
            low = middle + 1
        else:
            best, high = found, middle
    return best


def shorter_memories(memory: RecalledMemory | None) -> Iterator[RecalledMemory]:
    """Yield a memory, then the same without its oldest episode, and so on."""
    while memory is not None:
        yield memory
        memory = memory.without_oldest()
