"""How often a user answered the way that a trace would have to lead to, before anything is asked of the engine. Pure.

A small model that is shown what a user did answers as that user did: what the user answered seldom it seldom comes to
by thinking, and reading prompts to find that out was about half of what a batch cost (docs/decisions/006).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import mean

from mindprint.types import Engagement


def precedent(
    answer: str, choices: Collection[str], recalled: Sequence[Engagement], past: Sequence[Engagement]
) -> float | None:
    """The mean of two shares (0 to 1) of `answer`: among the `recalled` engagements, and among all of the `past`.

    Only engagements with the same choices count. Where none of the past has them, nothing can be said: None.
    """
    among = set(choices)
    shares = [
        mean(engagement.response == answer for engagement in alike)
        for engagements in (recalled, past)
        if (alike := [engagement for engagement in engagements if set(engagement.choices or ()) == among])
    ]
    return mean(shares) if shares else None
