"""Users, their engagements and their profiles."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from mindprint.types.base import NO_NUL, Choices, EngagementId, Reply, Request, Text, Time
from mindprint.types.cohorts import EVERYONE


class Engagement(Request):
    """One past event: a prompt and the user's real response.

    Ids are unique per user. A known id with other content is refused (409).
    """

    id: EngagementId
    prompt: Text
    response: Text
    occurred_at: Time
    reason: Annotated[str, StringConstraints(max_length=16_384, pattern=NO_NUL)] | None = None
    choices: Choices | None = None

    @model_validator(mode="after")
    def _response_is_a_choice(self) -> Self:
        if self.choices is not None:
            if len(set(self.choices)) != len(self.choices):
                raise ValueError("choices repeat: send each choice once")
            if self.response not in self.choices:
                # Without the texts: an error's message may be logged by whoever gets it.
                raise ValueError("response is not among the choices: add it to choices")
        return self


class EngagementBatch(Request):
    """Engagements to store, all or none. The user is created if needed."""

    engagements: Annotated[list[Engagement], Field(min_length=1, max_length=1000)]


class Ingested(Reply):
    """How many of the sent items were new, and how many were stored before with the same content."""

    created: int
    unchanged: int


class User(Reply):
    """A user with counts of what the server holds."""

    id: str
    created_at: Time
    engagements: int
    cohort: str = EVERYONE
    """Cohort of the user. Its adapter answers while the user has no own version in service."""
    profile_version: int | None = None
    live_version: int | None = None


class Profile(Reply):
    """Semantic memory: a text that the base model wrote about a user's engagements up to `covers_until`."""

    user_id: str
    version: int
    text: str
    tokens: int
    covers: int
    covers_until: Time
    prompt_version: str
    base_digest: str
    created_at: Time
