"""Bounds on requests: how many, how large, how long."""

from __future__ import annotations

from pydantic import BaseModel, Field


class LimitSettings(BaseModel):
    """Requests: how many at once, how large, how long."""

    max_interactive: int = Field(256, ge=1)
    """Maximum number of answers and single traces in progress at once. Further requests are refused with 429."""
    request_timeout_s: float = Field(300, gt=0)
    """Maximum seconds in which the body of a request must arrive (else 408), and in which an answer must begin or a
    single trace must be written (else 504)."""
    max_body_bytes: int = Field(1_000_000, ge=1024)
    """Maximum size of the body of a request in bytes, except of an upload. A larger one is refused with 413."""
    max_upload_bytes: int = Field(512 * 1024 * 1024, ge=1024)
    """Maximum size of an upload of adapter files in bytes. A larger one is refused with 413."""
    retry_after_s: int = Field(2, ge=1)
    """Seconds after which a refused client may try again: the value of `Retry-After` with 429 and 503."""
