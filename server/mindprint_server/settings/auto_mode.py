"""Settings of mode `auto`: when thinking is shown to pay for a user and a kind of query."""

from __future__ import annotations

from pydantic import BaseModel, Field


class AutoModeSettings(BaseModel):
    """Mode `auto`: it thinks only where thinking is shown to pay, for this user and kind of query (closed or open)."""

    auto_min_items: int = Field(16, ge=2)
    """Least questions of a user whose gain is known. With fewer, `auto` answers directly. For a version they are the
    held-out ones that the gate asked (at most `gate_items`), for the base model those of batches."""
    auto_confidence: float = Field(0.9, gt=0.5, lt=1)
    """One-sided confidence with which the mean gain must be above `auto_min_gain` (Student's bound)."""
    auto_min_gain: float = Field(0.0, ge=0)
    """Nats by which thinking must make the real answers likelier. For open answers, and for the base model, nats a
    token."""
    auto_refresh_s: float = Field(60, ge=0)
    """Seconds for which a decision is cached. Another version that answers is looked at at once."""
