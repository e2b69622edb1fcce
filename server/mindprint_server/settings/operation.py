"""Settings of operation: how background work retries, and when the server says that it is not ready."""

from __future__ import annotations

from pydantic import BaseModel, Field


class OperationSettings(BaseModel):
    """Operation: retries of background work, readiness, free disk space."""

    retry_min_s: float = Field(0.1, gt=0)
    """Seconds between the first failure of background work and its next try. The wait doubles with each further
    failure."""
    retry_max_s: float = Field(10, gt=0)
    """Longest wait between two tries of background work in seconds. It is tried until it works or the server stops."""
    max_failing_s: float = Field(5, ge=0)
    """Seconds for which background work may fail before `/readyz` answers 503 and names it."""
    probe_interval_s: float = Field(2, gt=0)
    """Seconds between two looks at the database and the disk. `/readyz` shows the last result and never waits."""
    probe_timeout_s: float = Field(5, gt=0)
    """Seconds that the database has to answer a probe. After that, `/readyz` answers 503 and names the store."""
    min_free_bytes: int = Field(256 * 1024 * 1024, ge=0)
    """Minimum free space on the disk of `data_dir` in bytes. Below it, `/readyz` answers 503 and engagements, batches,
    traces and uploads are refused with 507. Reads go on. 0 switches this off."""
