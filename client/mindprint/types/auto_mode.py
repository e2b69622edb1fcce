"""The modes of answering, and what `auto` makes of them."""

from __future__ import annotations

from typing import Literal

from mindprint.types.base import Reply

Mode = Literal["direct", "generic", "personal"]
AskedMode = Literal["direct", "generic", "personal", "auto"]
"""What a query may ask for: `auto` is `personal` where the user's evidence says that thinking pays, else `direct`."""
QueryKind = Literal["closed", "open"]
"""`closed`: with choices."""
AutoModeReason = Literal["pays", "not_shown", "too_few", "cohort", "no_user", "other_user"]
"""Why `auto` chose a mode.

`pays`: thinking is shown to make the user's real answers likelier; the only reason for `personal`. `not_shown`: it is
not shown to. `too_few`: the gain is known for too few questions. `cohort`: a cohort's version answers. `no_user`: the
request names no user. `other_user`: the version is another user's.
"""


class AutoModeDecision(Reply):
    """The mode that `auto` takes for one kind of a user's queries, and what it goes by.

    A gain is the log-probability of the real answer after thinking, less that of the same answer given at once.
    """

    mode: Mode
    reason: AutoModeReason
    """`pays` for `personal`. For `direct`: thinking is not shown to pay, the gain of too few questions is known, a
    cohort's version answers, the request names no user, or the version is another user's."""
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
