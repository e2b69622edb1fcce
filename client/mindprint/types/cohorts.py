"""Cohorts: users whose traces train one adapter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from mindprint.types.base import NO_NUL, Reply, Request, Time
from mindprint.types.keys import Name

EVERYONE = "everyone"
"""The cohort that is always there."""


class Cohort(Reply):
    """Users whose traces train one adapter, `cohort/<name>`. `everyone` holds all who are in no other."""

    name: str
    description: str
    users: int
    live: int | None = None
    created_at: Time


class CohortEdit(Request):
    """Creates or describes a cohort."""

    description: Annotated[str, StringConstraints(max_length=1024, pattern=NO_NUL)] = ""


class Members(Request):
    """Users who move into a cohort, from whichever they were in."""

    users: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
