"""Settings of quotas: how much of the server one tenant, or one key, may use."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mindprint.types import TenantName


def _read_none(value: object) -> object:
    return None if value == "none" else value


Bound = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_read_none)]
"""A quota. TOML has no null, so `"none"` means the same."""


class QuotaOverrides(BaseModel):
    """Quotas of one tenant in place of the server's. A quota that is left out is the server's; `"none"` is no bound."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    running_requests: Bound = None
    requests_per_minute: Bound = None
    generated_tokens_per_minute: Bound = None
    upload_bytes_per_minute: Bound = None
    engagements: Bound = None
    adapters: Bound = None
    key_running_requests: Bound = None
    key_requests_per_minute: Bound = None
    key_generated_tokens_per_minute: Bound = None
    key_upload_bytes_per_minute: Bound = None


class QuotaSettings(BaseModel):
    """Quotas: how much of the server one tenant, or one key, may use. What is over a quota is refused with 429.

    `null`, in TOML `"none"`, is no bound. Each server counts requests, tokens and uploads by itself.
    """

    quota_running_requests: Bound = 450
    """Maximum number of requests of a tenant under way at once, streams included. The default is half of
    `max_connections`, so that no tenant takes them all."""
    quota_requests_per_minute: Bound = 60_000
    """Maximum number of requests of a tenant in a minute. The default is far above what one team sends."""
    quota_generated_tokens_per_minute: Bound = None
    """Maximum number of tokens that the engine writes for a tenant in a minute, batches included. Over it, chats,
    single traces, profiles, imported traces and new batches are refused until the surplus is made up for. Batches that
    run start no further engagement until then.
    Default: no bound, as the tenants share the engine in turn."""
    quota_upload_bytes_per_minute: Bound = 16 * 1024**3
    """Maximum size of the uploads of a tenant in a minute, in bytes. The default fits 32 of the largest uploads."""
    quota_engagements: Bound = 10_000_000
    """Maximum number of stored engagements of a tenant, by a count that is at most a minute old. The default is far
    above what one team has."""
    quota_adapters: Bound = 100_000
    """Maximum number of adapters of a tenant that have a version, or an upload that is being checked. At the bound,
    those that exist are still trained again. The default is far above what one team has."""
    quota_key_running_requests: Bound = None
    """Maximum number of requests with one key under way at once. Default: only the tenant's bound."""
    quota_key_requests_per_minute: Bound = None
    """Maximum number of requests with one key in a minute. Default: only the tenant's bound."""
    quota_key_generated_tokens_per_minute: Bound = None
    """Maximum number of tokens that the engine writes in a minute for one key: for its requests, and for batches that
    it started. Default: only the tenant's bound."""
    quota_key_upload_bytes_per_minute: Bound = None
    """Maximum size of the uploads with one key in a minute, in bytes. Default: only the tenant's bound."""
    max_open_batches_total: int = Field(256, ge=1)
    """Maximum number of batches of all tenants that are queued or running. A further one is refused with 429. The
    default is eight tenants with `max_open_batches` each."""
    tenant_quotas: dict[TenantName, QuotaOverrides] = Field(default_factory=dict)
    """Quotas of single tenants, by name and without `quota_`: in TOML a table `[tenant_quotas.acme]` with
    `requests_per_minute = 600`. A quota that is not named there is the server's. Default: none."""
