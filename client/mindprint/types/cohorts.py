"""Cohorts: groups of users whose traces train one adapter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from mindprint.types.base import NO_NUL, Reply, Request, Time
from mindprint.types.keys import Name

EVERYONE = "everyone"
"""Name of the cohort that always exists."""


class Cohort(Reply):
    """A group of users whose traces train one adapter, `cohort/<name>`. `everyone` holds all others."""

    name: str
    description: str
    users: int
    live: int | None = None
    created_at: Time


class CohortEdit(Request):
    """Create a cohort, or replace its description."""

    description: Annotated[str, StringConstraints(max_length=1024, pattern=NO_NUL)] = ""


class Members(Request):
    """Move users into a cohort. Each leaves the cohort that it was in."""

    users: Annotated[list[Name], Field(min_length=1, max_length=10_000)]
