"""Users, their engagements and their profiles."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from mindprint.types.base import NO_NUL, Choices, EngagementId, Reply, Request, Text, Time
from mindprint.types.cohorts import EVERYONE


class Engagement(Request):
    """One past event of a user. Ids are unique per user; the same id with other content is refused (409)."""

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
                raise ValueError(
                    f"response {self.response!r} is not among the choices {self.choices}: add it to choices"
                )
        return self


class EngagementBatch(Request):
    """Creates the user if need be. All are stored, or none."""

    engagements: Annotated[list[Engagement], Field(min_length=1, max_length=1000)]


class Ingested(Reply):
    """How many of the sent items are new."""

    created: int
    unchanged: int


class User(Reply):
    """A user with counts of what the server holds."""

    id: str
    created_at: Time
    engagements: int
    cohort: str = EVERYONE
    """Whose adapter answers while the user has none of their own."""
    profile_version: int | None = None
    live_version: int | None = None


class Profile(Reply):
    """Semantic memory: what the base model wrote about a user from the engagements up to `covers_until`."""

    user_id: str
    version: int
    text: str
    tokens: int
    covers: int
    covers_until: Time
    prompt_version: str
    base_digest: str
    created_at: Time
