"""Base classes of requests and replies, and the types of their texts and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StringConstraints

EngagementId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
NO_NUL = r"^[^\x00]*$"
"""Pattern of texts without a NUL character: databases cannot store it."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=65_536, pattern=NO_NUL)]
Choice = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=NO_NUL)]
Choices = Annotated[list[Choice], Field(min_length=2, max_length=64, json_schema_extra={"uniqueItems": True})]
Flag = Annotated[bool, Field(strict=True)]
"""A boolean of a request. Neither `1` nor `"yes"` is one."""
ScoreName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


def refuse_other_types(value: Any) -> Any:
    """Return a value that can be a number: pydantic would also take `true` and `"1"`.

    Raises:
        ValueError: It is a boolean or a text.
    """
    if isinstance(value, bool | str):
        raise ValueError("is no number: send one without quotes")
    return value


NO_COERCION = BeforeValidator(refuse_other_types)
"""Comes last in the annotation of a number of a request: pydantic leaves bounds that follow it out of the schema."""
Number = Annotated[FiniteFloat, NO_COERCION]
"""A finite number of a request."""


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


NUMBER = re.compile(r"\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*")
"""A number as text, which pydantic takes for seconds or milliseconds since 1970."""


def refuse_number(when: Any) -> Any:
    """Return a time that was sent as a date.

    Raises:
        ValueError: It is a number, also as text. Seconds and milliseconds cannot be told apart.
    """
    if isinstance(when, int | float) or (isinstance(when, str) and NUMBER.fullmatch(when)):
        raise ValueError("is a number: send a time as text, such as 2026-01-31T12:00:00Z")
    return when


Time = Annotated[datetime, BeforeValidator(refuse_number), AfterValidator(as_utc)]


class Request(BaseModel):
    """Base class of request bodies. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Reply(BaseModel):
    """Base class of replies. Unknown fields are ignored, because a newer server may send them."""

    model_config = ConfigDict(extra="ignore")
