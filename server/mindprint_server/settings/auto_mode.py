"""Settings of mode `auto`: when thinking is shown to pay for a user and a kind of query."""

from __future__ import annotations

from pydantic import BaseModel, Field


class AutoModeSettings(BaseModel):
    """Mode `auto`: it thinks only where thinking is shown to pay, for this user and kind of query (closed or open)."""

    auto_min_items: int = Field(16, ge=2)
    """Minimum number of a user's questions whose gain is known. With fewer, `auto` answers directly. For a version they
    are the held-out ones that the gate asked (at most `gate_items`), for the base model those of batches. By default a
    user has 16 held-out ones from 160 engagements on, and they must be of one kind (closed or open)."""
    auto_confidence: float = Field(0.9, gt=0.5, lt=1)
    """Confidence with which the mean gain must be above `auto_min_gain`: the one-sided lower bound by Student's t."""
    auto_min_gain: float = Field(0.0, ge=0)
    """Nats by which thinking must make the real answers likelier. Below it, `auto` answers directly. For open answers,
    and for the base model, the unit is nats a token."""
    auto_refresh_s: float = Field(60, ge=0)
    """Seconds for which a decision is cached for a user and a version. A new live version has no cached decision, so
    its figures count at once."""
