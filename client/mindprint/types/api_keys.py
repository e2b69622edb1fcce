"""API keys: who may call which routes."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints

from mindprint.types.base import NO_COERCION, NO_NUL, Reply, Request, Time

Scope = Literal["infer", "ingest", "train", "read", "admin"]
"""What a key may do. `infer`: chat and single traces. `ingest`: write engagements, profiles and imported traces.
`train`: batches, leases and uploads. `read`: look at everything. `admin`: all of these, and keys, cohorts, and which
version answers."""
TenantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""A tenant's name: lower case, so that no two differ in case alone."""
DEFAULT_TENANT = "default"
"""The tenant of a server without keys. Its admins run the server and may make keys of other tenants."""
KEY_TEXT = re.compile(r"mp_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
"""The form of a key's text: `mp_<id>_<secret>`."""
SCOPES: tuple[Scope, ...] = get_args(Scope)


class ApiKey(Reply):
    """A key as the server knows it. The secret itself is not stored."""

    id: str
    """Begins the key's text, so that a key that was found somewhere can be revoked."""
    tenant: TenantName
    """Whose data the key reaches: no other tenant's."""
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
    expires_in_s: Annotated[float, Field(gt=0, le=10 * 366 * 86_400), NO_COERCION] | None = None
    """Seconds after which the key is refused; null: never."""
    tenant: TenantName | None = None
    """The key's tenant, which is made if there is none; null: that of the caller. Another one than the caller's takes
    an admin of `default`."""


class RotateApiKey(Request):
    """Creates a key like an existing one, which stays valid for a while: both work until then."""

    keep_old_s: Annotated[float, Field(ge=0, le=366 * 86_400), NO_COERCION] = 86_400
    """Seconds until the old key is refused."""


class ApiKeyPage(Reply):
    """Keys of the tenant, revoked and expired ones too, the oldest first; for an admin of `default`, of all tenants."""

    keys: list[ApiKey]
    next: str | None = None
    """The `after` of the following page; None on the last one."""
