"""Settings of operation: how background work retries, when the server is not ready, what is kept of changes."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field


class OperationSettings(BaseModel):
    """Operation: retries of background work, readiness, free disk space, the audit log."""

    retry_min_s: float = Field(0.1, gt=0)
    """Seconds between the first failure of background work and its next try. The wait doubles with each further
    failure."""
    retry_max_s: float = Field(10, gt=0)
    """Longest wait between two tries of background work in seconds. It is tried until it works or the server stops."""
    max_failing_s: float = Field(5, ge=0)
    """Seconds for which background work may fail before `/readyz` answers 503 and names it."""
    database_wait_s: float = Field(60, ge=0)
    """Seconds for which a server that starts waits for a database that does not answer. Then the start fails. 0 does
    not wait."""
    probe_interval_s: float = Field(2, gt=0)
    """Seconds between two looks at the database and the disk. `/readyz` shows the last result and never waits."""
    probe_timeout_s: float = Field(5, gt=0)
    """Seconds that the database or the artifact store has to answer a probe. After that, `/readyz` answers 503 and
    names it."""
    artifact_probe_interval_s: float = Field(10, gt=0)
    """Seconds between two looks at the artifact store. While it does not answer, `/readyz` answers 503 and uploads are
    refused with 503."""
    min_free_bytes: int = Field(256 * 1024 * 1024, ge=0)
    """Minimum free space on the disk of `data_dir` in bytes. Below it, `/readyz` answers 503 and engagements, batches,
    traces and uploads are refused with 507. Reads go on. 0 switches this off."""
    audit_keep_days: float | None = Field(400, gt=0)
    """Days for which events of the audit log are kept in the database. Unset: for ever."""
    audit_prune_interval_s: float = Field(3600, gt=0)
    """Seconds between two removals of events that are older than `audit_keep_days`."""
    audit_file: Path | None = None
    """File to which each event of the audit log is appended as one line of JSON. It is opened for each line, so it may
    be rotated. Unset: the database only."""
