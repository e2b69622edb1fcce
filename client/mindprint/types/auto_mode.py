"""The modes of answering, and what `auto` makes of them."""

from __future__ import annotations

from typing import Literal

from mindprint.types.base import Reply

Mode = Literal["direct", "generic", "personal"]
AskedMode = Literal["direct", "generic", "personal", "auto"]
"""What a query may ask for: `auto` is `personal` where the user's evidence says that thinking pays, else `direct`."""
QueryKind = Literal["closed", "open"]
"""`closed`: with choices."""
AutoModeReason = Literal["pays", "not_shown", "too_few", "cohort", "nobody", "other_user"]


class AutoModeDecision(Reply):
    """The mode that `auto` takes for one kind of a user's queries, and what it goes by.

    A gain is the log-probability of the real answer after thinking, less that of the same answer given at once.
    """

    mode: Mode
    reason: AutoModeReason
    """`pays`, or what keeps it `direct`: not shown to pay, too few questions, a cohort's version answers, nobody is
    asked about, or the version is another user's."""
    why: str
    """The same in words."""
    items: int = 0
    """Questions of the user's whose gain is known."""
    mean: float | None = None
    """Their mean gain."""
    low: float | None = None
    """Below which the true mean lies only by chance: Student's one-sided bound. None of fewer than two questions."""
    unit: Literal["nats", "nats a token"] | None = None
    """Of `mean` and `low`: in all, or a token of the answer."""


class AutoModeDecisions(Reply):
    """What `auto` makes of a user's queries while `model` answers them."""

    user_id: str
    model: str
    """`base`, or a version."""
    closed: AutoModeDecision
    open: AutoModeDecision
