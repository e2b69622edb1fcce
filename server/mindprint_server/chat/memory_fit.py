"""Makes a user's memory fit the model beside a chat, as batches do with theirs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mindprint_server.prompts.types import RecalledMemory


def fit_memory(memory: RecalledMemory, fits: Callable[[RecalledMemory], bool]) -> tuple[RecalledMemory, int]:
    """Drop the oldest engagements, then the profile, until a memory fits or is empty.

    Args:
        memory: What was recalled.
        fits: Returns whether the prompt fits the model with this memory.

    Returns:
        The memory that is left, and how many parts were dropped.
    """
    steps = [memory]
    while (smaller := steps[-1].without_oldest()) is not None:
        steps.append(smaller)
    if fits(memory):
        return memory, 0
    # A text without any room costs two looks, not one for each part: each look tokenizes all of it.
    if not fits(steps[-1]):
        return steps[-1], len(steps) - 1
    dropped = next(number for number in range(1, len(steps)) if number == len(steps) - 1 or fits(steps[number]))
    return steps[dropped], dropped


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    """Return how many tokens a chat request allows. None: it says nothing, or something that vLLM refuses."""
    limit = body.get("max_completion_tokens")
    limit = body.get("max_tokens") if limit is None else limit
    return limit if isinstance(limit, int) else None
