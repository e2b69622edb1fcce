"""Settings of the gate: what a new version is asked, and how much worse than the base model it may be."""

from __future__ import annotations

from pydantic import BaseModel, Field


class GateSettings(BaseModel):
    """The gate: what a new version is asked and which bounds it must meet.

    A limit is crossed "beyond chance" if the mean of the paired differences is over it, and the one-sided confidence
    bound of this mean, by Student's t, is over it too (`gate_confidence`).
    """

    gate: bool = True
    """Evaluate new versions, and refuse those that fail. Without it, only the parity check is made."""
    gate_items: int = Field(16, ge=1)
    """Maximum number of held-out engagements that one evaluation asks."""
    gate_min_items: int = Field(4, ge=2)
    """Minimum number of held-out engagements with which the personal score is judged: the log-probability of the real
    answers. With fewer, these checks are not judged."""
    gate_thoughts: int = Field(16, ge=2)
    """Number of thinkings written with the new version, and as many with the base model. With few engagements, each
    gets several."""
    gate_thinking_tokens: int = Field(128, ge=1)
    """Maximum number of tokens of such a thinking. One that is not closed by then counts as collapsed. Default: twice
    what most need."""
    gate_at_once: int = Field(16, ge=1)
    """Maximum number of thinkings that are written, or answers that are scored, at once. One score takes a request for
    each token at which the choices differ, or for each token of an open answer up to `score_tokens`."""
    gate_confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence of the one-sided bound, by Student's t, with which a limit counts as crossed beyond chance."""
    gate_score_slack: float = Field(0.01, ge=0)
    """Maximum drop of the personal score against the base model or the live version, in nats. A larger drop refuses the
    version if it is beyond chance. Smaller drops are rounding."""
    gate_thinking_decides: bool = False
    """Let the personal score after thinking refuse a version too. Otherwise it is only reported."""
    gate_max_collapse_rise: float = Field(0.02, ge=0, le=1)
    """Maximum rise of the collapse rate against the base model, 0 to 1. A larger rise refuses the version if it is
    beyond chance."""
    gate_min_length_ratio: float = Field(0.6, ge=0)
    """Minimum ratio of the median thinking length to the base model's. A lower ratio refuses the version if it is
    beyond chance."""
    gate_max_length_ratio: float = Field(1.7, gt=0)
    """Maximum ratio of the median thinking length to the base model's. A higher ratio refuses the version if it is
    beyond chance."""
    gate_max_general_drop: float = Field(3.0, ge=0)
    """Maximum drop of the score on general questions against the base model, in points of 100. A larger drop refuses
    the version, without a confidence bound."""
