"""API keys: who may call which routes."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from mindprint.types.base import NO_NUL, Reply, Request, Time

Scope = Literal["infer", "ingest", "train", "read", "admin"]
"""What a key may do. `infer`: chat and single traces. `ingest`: write engagements, profiles and imported traces.
`train`: batches, leases and uploads. `read`: look at everything. `admin`: all of these, and keys, cohorts, and which
version answers."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


class ApiKey(Reply):
    """A key as the server knows it. The secret itself is not stored."""

    id: str
    """Begins the key's text, so that a key that was found somewhere can be revoked."""
    name: str
    scopes: list[Scope]
    created_at: Time
    expires_at: Time | None = None
    """From then on the key is refused; null: never."""
    revoked_at: Time | None = None
    last_used_at: Time | None = None
    """Time of a recent use; kept with a grain of a minute."""


class CreatedApiKey(ApiKey):
    """A new key with its text, which is shown this once."""

    key: str


class CreateApiKey(Request):
    """Creates a key."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NO_NUL)]
    """What the key is for; names need not differ."""
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES))]
    expires_in_s: Annotated[float, Field(gt=0, le=10 * 366 * 86_400)] | None = None
    """Seconds after which the key is refused; null: never."""


class RotateApiKey(Request):
    """Creates a key like an existing one, which stays valid for a while: both work until then."""

    keep_old_s: Annotated[float, Field(ge=0, le=366 * 86_400)] = 86_400
    """Seconds until the old key is refused."""


class ApiKeyPage(Reply):
    """All keys, revoked and expired ones too."""

    keys: list[ApiKey]
