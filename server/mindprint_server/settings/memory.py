"""Settings of memory: which past engagements a prompt shows, and when profiles are written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator


class MemorySettings(BaseModel):
    """Memory: recalled engagements and profiles."""

    recall: Literal["recency", "bm25", "embeddings"] = "bm25"
    """Which past engagements a prompt shows: the newest, or those most like the query by words (`bm25`) or by
    embeddings. The newest share a cached prefix. By words, the untrained model answers better. Default: decision
    018."""
    recency_k: int = Field(4, ge=0, le=64)
    """Number of engagements that a prompt shows. With `recall=recency` it shows up to `recency_step` - 1 more. 0 shows
    none."""
    recency_step: int = Field(5, ge=1, le=64)
    """Number of new engagements after which a prompt with `recall=recency` starts at another engagement. Between two
    such changes new engagements are only appended, so that the prefix cache is hit. A prompt then shows `recency_k`
    to `recency_k + recency_step - 1` engagements. 1 shows exactly the newest `recency_k`."""
    recall_from: int = Field(500, ge=1)
    """Number of newest engagements among which similarity chooses. For 500, `bm25` takes 0.2 ms of a core a query, and
    10 ms where the server does not keep the history."""
    history_cache_mib: float = Field(256, ge=0)
    """MiB of users' histories that the server keeps in memory, of all tenants together. Above it the least recently
    used history is dropped. A server reads a history that it does not keep for each chat and each batch. An engagement
    counts as 2 KiB and 4 bytes a character. 0 keeps none."""
    history_cache_s: float = Field(600, gt=0)
    """Seconds for which a history is kept. An erasure drops the histories of its tenant at once. Default: as long as
    the neighbors of a user (`anchor_refresh_s`)."""
    embedding_model: Path | None = Field(None, validate_default=True)
    """Folder of a transformers model. Only `recall=embeddings` needs it."""
    reminder_engagements: int = Field(0, ge=0, le=8)
    """Number of past engagements with which personal thinking begins: the question and this user's answer, the most
    similar to the query by words. 0 adds none. Above 0, each query reads `recall_from` engagements."""
    profile_every: int = Field(10, ge=1)
    """Number of new engagements of a user after which a new profile is written. The first profile needs as many."""
    profile_tokens: int = Field(120, ge=16)
    """Maximum number of tokens of a profile, and of each note that it is made from."""
    profile_piece: int = Field(10, ge=1)
    """Number of engagements that one note summarizes. The notes are then merged into the profile."""
    profile_notes_at_once: int = Field(8, ge=1)
    """Number of notes, of all users together, that are generated at once. The others wait."""

    @field_validator("embedding_model")
    @classmethod
    def _needed_by_recall(cls, folder: Path | None, others: ValidationInfo) -> Path | None:
        if others.data.get("recall") == "embeddings" and (folder is None or not (folder / "config.json").is_file()):
            found = "it is not set" if folder is None else f"{folder} has no config.json"
            raise ValueError(f"recall=embeddings needs the folder of a transformers model, but {found}")
        return folder
