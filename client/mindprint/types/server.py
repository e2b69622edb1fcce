"""The server itself, and what its engine can load."""

from __future__ import annotations

from mindprint.types.base import Reply


class LoraLimits(Reply):
    """Bounds on the adapters that the engine can load. Other adapters are refused at upload."""

    max_rank: int
    target_modules: list[str]


class ServerInfo(Reply):
    """What the server runs. A trainer must use the same base model and stay within `limits`."""

    mindprint: str
    engine: str
    device: str
    model: str
    model_path: str
    base_digest: str
    prompt_version: str
    max_model_len: int
    limits: LoraLimits


class SystemInfo(Reply):
    """What only an admin may know: where the server listens, and what it stores in."""

    host: str
    port: int
    """As in the settings; 0: any free one."""
    openapi: bool
    """Whether `/docs` and `/openapi.json` are served."""
    database: str
    """`sqlite` or `postgresql`."""
    free_bytes: int
    """Free space on the disk of the data folder."""
    min_free_bytes: int
    """Below it, writes are refused."""
    artifacts: str
    """Where adapter files are."""
    artifacts_problem: str | None = None
    """Why they cannot be written; null if they can."""
