"""Questions, memories and prompts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mindprint.types import Engagement, QueryKind


@dataclass(frozen=True)
class Question:
    """A question to a user's past, with the memory that belongs to its time."""

    user_id: str
    query: str
    choices: tuple[str, ...] | None
    target: str | None
    memory: RecalledMemory
    profile_version: int | None
    engagement_id: str | None = None
    memory_of: str = "own"
    """Whose memory it is, as a request names it: own, none, or user/<id>."""
    show_choices: bool = True
    """Whether the prompt lists the choices."""

    @property
    def kind(self) -> QueryKind:
        """Open, or closed by choices."""
        return "open" if self.choices is None else "closed"


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, up to the start of the assistant's turn."""

    text: str
    ids: list[int]
    dropped: int
    """Parts of the memory, oldest first, that did not fit the model."""


@dataclass(frozen=True)
class RecalledMemory:
    """A user's memory as it enters one prompt: the profile and the recalled engagements, oldest first."""

    profile: str | None = None
    episodes: tuple[Engagement, ...] = ()
    reminders: tuple[Engagement, ...] = ()
    """Past engagements most similar to the query, with which personal thinking begins; not shown in the prompt."""

    def without_oldest(self) -> RecalledMemory | None:
        """Return the next smaller memory: the oldest episode goes first, the profile last; None if nothing is left."""
        if self.episodes:
            return replace(self, episodes=self.episodes[1:])
        return RecalledMemory() if self.profile else None
