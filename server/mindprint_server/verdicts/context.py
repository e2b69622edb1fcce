"""TODO."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from mindprint_server.engine import AdapterRef, Priority
from mindprint_server.prompts.types import Question

T = TypeVar("T")
MemoryOwner = Literal["self", "nearest", "random"]


@dataclass
class EngagementContext:
    """One question on its way through the verdicts."""

    question: Question
    thinking_tokens: int
    adapter: AdapterRef | None
    priority: Priority
    accepted: set[str]
    """Fingerprints of this user's accepted thinking, shared by all the user's cases."""
    known: dict[tuple[str, ...], Any] = field(default_factory=dict)
    locks: dict[tuple[str, ...], asyncio.Lock] = field(default_factory=dict)

    async def once(self, key: tuple[str, ...], compute: Callable[[], Awaitable[T]]) -> T:
        """Brothers may ask at the same time; one of them computes. Should that one be cancelled, the next does."""
        async with self.locks.setdefault(key, asyncio.Lock()):
            if key not in self.known:
                self.known[key] = await compute()
            result: T = self.known[key]
            return result
