"""Base classes of requests and replies, and the types of their texts and times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

EngagementId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
NO_NUL = r"^[^\x00]*$"
"""Pattern of texts without a NUL character: databases cannot store it."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=65_536, pattern=NO_NUL)]
Choice = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=NO_NUL)]
Choices = Annotated[list[Choice], Field(min_length=2, max_length=64)]
ScoreName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


def as_utc(when: datetime) -> datetime:
    """Return a time in UTC. A time without a zone counts as UTC, so that the order is the same on every machine.

    Raises:
        ValueError: In UTC the time lies outside of the years 1 to 9999.
    """
    if when.tzinfo is None:
        return when.replace(tzinfo=UTC)
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside of the years 1 to 9999 in UTC: send a time within them") from None


Time = Annotated[datetime, AfterValidator(as_utc)]


class Request(BaseModel):
    """Base class of request bodies. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Reply(BaseModel):
    """Base class of replies. Unknown fields are ignored, because a newer server may send them."""

    model_config = ConfigDict(extra="ignore")
