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
    dropped = 0
    while not fits(memory) and (smaller := memory.without_oldest()) is not None:
        memory, dropped = smaller, dropped + 1
    return memory, dropped


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    """Return how many tokens a chat request allows. None: it says nothing, or something that vLLM refuses."""
    limit = body.get("max_completion_tokens")
    limit = body.get("max_tokens") if limit is None else limit
    return limit if isinstance(limit, int) else None
