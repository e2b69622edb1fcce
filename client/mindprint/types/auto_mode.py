"""The modes of answering, and the decisions of `auto`."""

from __future__ import annotations

from typing import Literal

from mindprint.types.base import Reply

Mode = Literal["direct", "generic", "personal"]
AskedMode = Literal["direct", "generic", "personal", "auto"]
"""Mode of a request. `auto` chooses `personal` if thinking is shown to pay for this user, else `direct`."""
QueryKind = Literal["closed", "open"]
"""`closed`: a question with choices. `open`: one without."""
AutoModeReason = Literal["pays", "not_shown", "too_few", "cohort", "no_user", "other_user"]
"""Why `auto` chose a mode.

`pays`: thinking is shown to make the user's real answers likelier; the only reason for `personal`. `not_shown`: it is
not shown to. `too_few`: the gain is known for too few questions. `cohort`: a cohort's version answers. `no_user`: the
request names no user. `other_user`: the version is another user's.
"""


class AutoModeDecision(Reply):
    """The mode that `auto` chooses for one kind of a user's queries, with the evidence.

    A gain is the log-probability of the real answer after thinking, minus its log-probability without thinking.
    """

    mode: Mode
    reason: AutoModeReason
    """`pays` for `personal`. For `direct`: thinking is not shown to pay, the gain of too few questions is known, a
    cohort's version answers, the request names no user, or the version is another user's."""
    why: str
    """The reason and the figures in words."""
    items: int = 0
    """Number of the user's questions whose gain is known."""
    mean: float | None = None
    """Mean gain of these questions."""
    low: float | None = None
    """Student's one-sided lower bound of the mean gain; None for fewer than two questions."""
    unit: Literal["nats", "nats a token"] | None = None
    """Unit of `mean` and `low`: nats of the whole answer, or nats a token."""


class AutoModeDecisions(Reply):
    """The modes that `auto` chooses for a user's closed and open queries."""

    user_id: str
    model: str
    """The model that answers and that the evidence is about: `base`, or a version."""
    closed: AutoModeDecision
    open: AutoModeDecision
