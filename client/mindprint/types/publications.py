"""Publications: uploaded versions on their way into service, as durable jobs of the server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mindprint.types.base import Reply, Time
from mindprint.types.versions import Version

PublicationState = Literal["stored", "loading", "parity_check", "gate", "published", "refused", "failed"]
"""`stored`: waits for a server. `loading`, `parity_check`, `gate`: what a server does with it now. `published`: the
version is in service. `refused`: it failed a check. `failed`: it could not be checked, or its lease has ended."""


class Publication(Reply):
    """The job that brings an uploaded version into service. It goes on at any server, also after a restart."""

    id: str
    lease_id: str
    adapter: str
    version: int
    """The number that the version has, or gets."""
    state: PublicationState
    steps: dict[str, Time] = Field(default_factory=dict)
    """When each state began, by state. After another server took over, the time of the last begin."""
    tries: int = 0
    """How often a server began with it."""
    code: str | None = None
    """Why it was refused or failed, for programs."""
    message: str | None = None
    """Why it was refused or failed, and what to do."""
    created_at: Time
    finished_at: Time | None = None
    result: Version | None = None
    """The version, once it is published. `GET /v1/publications/{id}` has it, and the reply to a repeated upload."""
