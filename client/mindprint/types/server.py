"""The server itself, and what its engine can load."""

from __future__ import annotations

from mindprint.types.base import Reply


class LoraLimits(Reply):
    """What the serving engine can load; an adapter outside it is refused at upload."""

    max_rank: int
    target_modules: list[str]


class ServerInfo(Reply):
    """`GET /v1/info`: what a trainer must match and a person wants to know."""

    mindprint: str
    engine: str
    device: str
    model: str
    model_path: str
    base_digest: str
    prompt_version: str
    max_model_len: int
    limits: LoraLimits
