"""Settings of verdicts: the bounds that a candidate must meet, and how its scores are measured."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from mindprint.thinking_text import LEAST_WORDS


class VerdictSettings(BaseModel):
    """Verdicts: bounds of a candidate's scores, in nats a token. With `null`, a score is stored and decides nothing."""

    accept_by: Literal["answer", "gain"] = "answer"
    """What thinking about a closed question must do to be accepted. `answer`: make the real answer the likeliest
    choice. `gain`: make it likelier than without thinking, as for open questions; no engagement is then skipped or
    stopped early because of its answer. With `answer`, rare answers get hardly any traces, and an adapter learns that
    thinking leads to the user's most frequent one. Default: decision 013."""
    min_thinking_words: int = Field(LEAST_WORDS, ge=0)
    """Minimum number of words of thinking. Words of the thinking prefix and the answer prefix do not count. Below it,
    the verdict is `empty`."""
    min_gain: float | None = 0.0
    """Minimum Gain: by how much thinking makes the real answer likelier than answering directly."""
    min_anchor: float | None = 0.0
    """Minimum Anchor: by how much larger Gain is with this user's memory than with the nearest other user's."""
    max_hindsight_gap: float | None = None
    """Maximum hindsight gap: by how much likelier the thinking is if the prompt shows the answer. Only hinted
    candidates have it."""
    score_tokens: int = Field(32, ge=1)
    """Number of first tokens of an open answer that are scored."""
    hindsight_tokens: int = Field(8, ge=1)
    """Number of tokens of a hinted thinking, evenly spread, on which its hindsight gap is measured."""

    anchor_pool: int = Field(32, ge=0)
    """Number of other users among whom the nearest is searched. 0 measures no Anchor."""
    anchor_random_share: float = Field(0.25, ge=0, le=1)
    """Share of otherwise accepted traces that are also scored with a random other user's memory. That score decides
    nothing; a share is enough for its mean, and each costs as much as Anchor. Default: decision 008."""
    anchor_history: int = Field(64, ge=1)
    """Number of newest engagements by which users are compared."""
    anchor_refresh_s: float = Field(600, gt=0)
    """Seconds for which a user's nearest other users are cached."""
    anchor_memory_s: float = Field(10, ge=0)
    """Seconds for which another user's memory is cached for Anchor. 0 reads it each time."""
