"""Settings of personal data: erasure, and for how long rows are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mindprint.types import TenantName

Days = Annotated[float, Field(gt=0)] | Literal["none"] | None
"""Days for which rows are kept. `"none"` keeps them for ever; None takes the server's setting."""


class RetentionOverrides(BaseModel):
    """Retention of one tenant in place of the server's. What is left out is the server's; `"none"` is for ever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engagements_days: Days = None
    traces_days: Days = None


class PersonalDataSettings(BaseModel):
    """Personal data: erasure and retention."""

    erasure_chunk_rows: int = Field(500, ge=1)
    """Maximum number of rows that one transaction of an erasure deletes. More make it faster, and let other writers
    wait longer. Default: a transaction of some milliseconds."""
    erasure_poll_s: float = Field(5, gt=0)
    """Seconds between two looks for erasures that other servers requested or finished. For so long another server may
    still remember what is erased."""
    retain_engagements_days: float | None = Field(None, gt=0)
    """Days after its time for which an engagement is kept. Then it is removed with its traces; versions that learned
    from it stay. None keeps engagements for ever."""
    retain_traces_days: float | None = Field(None, gt=0)
    """Days after it was written for which a trace is kept, whatever its verdict and state. Versions that learned from
    it stay. None keeps traces for ever."""
    tenant_retention: dict[TenantName, RetentionOverrides] = Field(default_factory=dict)
    """Retention of single tenants, by name: in TOML a table `[tenant_retention.acme]` with `traces_days = 30`. What is
    not named there is the server's; `"none"` keeps rows for ever. Default: none."""
    retain_publications_days: float | None = Field(30, gt=0)
    """Days after its end for which a publication is kept. The row of its version stays. After that
    `GET /v1/publications/{id}` answers 404, and the same upload again is refused as `lease_lost`. None keeps
    publications for ever. Default: far longer than a trainer waits."""
    retention_interval_s: float = Field(3600, gt=0)
    """Seconds between two looks for rows that are too old."""
