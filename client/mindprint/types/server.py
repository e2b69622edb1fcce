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
