"""Settings of the artifact store: where the files of versions are kept, fetched to, and when they are collected."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, Field, SecretStr, field_validator


class ArtifactSettings(BaseModel):
    """The artifact store: where adapter files are kept, how servers fetch them, when orphans are removed."""

    artifact_url: str | None = None
    """Where the files of versions are kept: a folder, or a URL that fsspec opens, such as `s3://bucket/mindprint`.
    Servers on one database need the same one, and no other database may use it. A folder is used in place. From any
    other URL files are fetched into `data_dir/adapters`. Unset: the folder `data_dir/artifacts`."""
    artifact_options: SecretStr | None = None
    """Options of the fsspec file system, a JSON object such as `{"endpoint_url": "http://minio:9000"}`. They are never
    shown. Better give credentials in the variables of the cloud's own library."""
    artifact_cache_bytes: int = Field(10 * 1024**3, ge=0)
    """Largest size of the fetched files in `data_dir/adapters` in bytes. Above it, the ones that were used least
    recently are removed; those that the engine holds stay. A folder as `artifact_url` needs none."""
    artifact_wait_s: float = Field(20, gt=0)
    """Maximum seconds for which a request waits until the files of its version are fetched. Then a named version is
    answered with 503 and the base model answers for a version in service. The fetch goes on."""
    artifact_timeout_s: float = Field(300, gt=0)
    """Maximum seconds of one call of the artifact store, such as a whole fetch. After that it counts as failed."""
    artifact_retry_s: float = Field(5, gt=0)
    """Seconds after a failed fetch during which no request tries it again. Each is answered at once instead."""
    max_artifact_calls: int = Field(4, ge=1)
    """Maximum number of calls of the artifact store that run at once. More wait."""
    max_publication_s: float = Field(86_400, gt=0)
    """Maximum seconds of the checks of an upload. A slower publication has failed, and its traces wait again. Default:
    parity check and gate take minutes; a machine under load may take hours."""
    artifact_min_orphan_age_s: float = Field(86_400, gt=0)
    """Minimum age in seconds of files without a manifest that no version and no publication names before they are
    removed. Younger ones may be written now, and clocks of servers and store differ. Files with a manifest are removed
    whatever their age, once the lease that they were uploaded under has ended."""
    artifact_upkeep_interval_s: float = Field(3600, gt=0)
    """Seconds between two searches for files that no version names. The first is at start."""

    @field_validator("artifact_options", mode="before")
    @classmethod
    def _write_as_json(cls, value: Any) -> Any:
        # Flags and TOML give an object, the environment its text.
        return json.dumps(value) if isinstance(value, dict) else value

    @field_validator("artifact_options")
    @classmethod
    def _check_options(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            is_object = value is None or isinstance(json.loads(value.get_secret_value()), dict)
        except json.JSONDecodeError:
            is_object = False
        if not is_object:
            raise ValueError('artifact_options is no JSON object: give it as {"name": "value"}')
        return value
