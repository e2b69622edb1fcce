"""Questions, memories and prompts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mindprint.types import Engagement, QueryKind


@dataclass(frozen=True)
class Question:
    """A query about a user, with the memory from before its time."""

    user_id: str
    query: str
    choices: tuple[str, ...] | None
    target: str | None
    memory: RecalledMemory
    profile_version: int | None
    engagement_id: str | None = None
    memory_of: str = "own"
    """Whose memory it is, in the form of a request's `memory`: `own`, `none` or `user/<id>`."""
    show_choices: bool = True
    """Whether the prompt lists the choices."""

    @property
    def kind(self) -> QueryKind:
        """`closed` if the question has choices, else `open`."""
        return "open" if self.choices is None else "closed"


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, up to the start of the assistant's turn."""

    text: str
    ids: list[int]
    dropped: int
    """Number of parts of the memory that did not fit the model. The oldest are dropped first."""


@dataclass(frozen=True)
class RecalledMemory:
    """The memory in one prompt: the profile and the recalled engagements, oldest first."""

    profile: str | None = None
    episodes: tuple[Engagement, ...] = ()
    reminders: tuple[Engagement, ...] = ()
    """Past engagements most similar to the query, with which personal thinking begins; not shown in the prompt."""
    texts: dict[tuple[str, ...], str] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Its system message, by the special tokens that are removed: all modes of a question show the same."""

    def without_oldest(self) -> RecalledMemory | None:
        """Return the memory without its oldest episode, or without the profile if no episode is left; None if empty."""
        if self.episodes:
            return replace(self, episodes=self.episodes[1:])
        return RecalledMemory() if self.profile else None
