"""Which engagements begin at once: those whose prompts the engine's cache has room for. Pure.

What there is no room for would push out prompts that are still to be read: it begins behind all that has begun. What
there is room for does not wait, for then the last ones would be left to be written alone (docs/decisions/006).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from mindprint_server.engine import Priority


@dataclass
class Turn:
    """One engagement's, from its first request on."""

    room: Room
    behind: bool

    @property
    def priority(self) -> Priority:
        return Priority.BEGIN if self.behind else Priority.BATCH

    def began(self) -> None:
        """Its first request was answered: the others share the prompt."""
        self.room.behind -= self.behind
        self.behind = False


@dataclass
class Room:
    used: int = field(default=0, init=False)
    """Tokens of all that is being worked on: prompts, and what may be thought about them."""
    behind: int = field(default=0, init=False)
    """Engagements that have not begun for want of room."""

    @contextlib.contextmanager
    def take(self, tokens: int, of: int | None) -> Iterator[Turn]:
        """Room for an engagement as long as it is worked on, in a cache of so many tokens (None: any)."""
        # Nobody overtakes those who wait already, though there be room again: they would wait for ever.
        turn = Turn(self, of is not None and (self.behind > 0 or self.used + tokens > of))
        self.used += tokens
        self.behind += turn.behind
        try:
            yield turn
        finally:
            turn.began()
            self.used -= tokens
