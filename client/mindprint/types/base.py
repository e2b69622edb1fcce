"""What all wire types are made of: requests and replies, names, texts and times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
"""A user's or cohort's id. It becomes a folder name, so it holds no slash and no `..`."""
EngagementId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
AdapterKey = Annotated[
    str, StringConstraints(pattern=r"^(user|cohort)/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$", max_length=72)
]
ModelName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(base|(user|cohort)/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*(@[1-9][0-9]{0,8})?)$", max_length=84
    ),
]
"""`base`, `user/<id>`, `cohort/<name>`, the latter two optionally `@<version>`."""
MemoryName = Annotated[
    str, StringConstraints(pattern=r"^(own|none|user/[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)$", max_length=69)
]
"""Whose memory a prompt shows: the user's `own`, `none`, or that of `user/<id>`."""
NO_NUL = r"^[^\x00]*$"
"""No database column takes a NUL character."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=65_536, pattern=NO_NUL)]
Choice = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=NO_NUL)]
Choices = Annotated[list[Choice], Field(min_length=2, max_length=64)]
ScoreName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


def as_utc(when: datetime) -> datetime:
    """A time without a zone is taken as UTC, so that histories order the same on every machine."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


Time = Annotated[datetime, AfterValidator(as_utc)]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reply(BaseModel):
    model_config = ConfigDict(extra="ignore")
