"""Reasons that people wrote, scored after a trace, after generic thinking, after none.

The trace was written before the user's answer was known to be right, and never from the reason: the closer it comes to
what the user wrote, the more of the user's own thinking is in it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mindprint.datasets import HeldOut, UserRecords
from mindprint.types import Engagement, ImportedTrace, TraceRequest
from mindprint_eval.requests import Asked, because
from mindprint_eval.results import Outcome

MOST = 8
"""Traces of one user that are looked at, the newest."""


@dataclass(frozen=True)
class Told:
    """An engagement whose reason the user wrote, and the trace that was selected for it."""

    user: str
    engagement: Engagement
    thinking: str

    @property
    def reason(self) -> str:
        assert self.engagement.reason is not None
        return self.engagement.reason


def told(user: UserRecords, lessons: Sequence[ImportedTrace]) -> list[Told]:
    by_id = {engagement.id: engagement for engagement in user.engagements}
    found = [Told(user.user_id, by_id[one.engagement_id], one.thinking) for one in lessons if one.selected]
    return [one for one in found if (one.engagement.reason or "").strip()][-MOST:]


def generic(one: Told) -> Asked:
    """Asks for generic thinking about the same engagement."""
    e = one.engagement
    row = HeldOut(e.id, e.prompt, e.choices, e.response, e.occurred_at)
    request = TraceRequest(
        user_id=one.user,
        query=e.prompt,
        choices=e.choices,
        target=e.response,
        asked_at=e.occurred_at,
        mode="generic",
        temperature=0.0,
    )
    return Asked("reason", "A2", one.user, row, request, None)


def beside(told: Sequence[Told], generic: Sequence[Outcome]) -> Iterator[tuple[Told, str | None, str | None]]:
    """Each trace, generic thinking about the same question, the next other user's reason; None where there is none."""
    for place, (one, general) in enumerate(zip(told, generic, strict=True)):
        foreign = (other.reason for other in [*told[place + 1 :], *told[:place]] if other.user != one.user)
        yield one, general.thinking if general.outcome == "answered" else None, next(foreign, None)


def questions(told: Sequence[Told], generic: Sequence[Outcome]) -> list[Asked]:
    """Of each trace: its user's reason after none (`R-none`), generic thinking (`R-generic`) and the trace (`R-trace`);
    the next user's after none and the trace (`R-other-none`, `R-other-trace`)."""
    asked = []
    for one, general, foreign in beside(told, generic):
        asked += [_ask("R-none", one, "", one.reason), _ask("R-trace", one, one.thinking, one.reason)]
        if general is not None:
            asked.append(_ask("R-generic", one, general, one.reason))
        if foreign is not None:
            asked += [_ask("R-other-none", one, "", foreign), _ask("R-other-trace", one, one.thinking, foreign)]
    return asked


def _ask(arm: str, one: Told, thinking: str, reason: str) -> Asked:
    e = one.engagement
    row = HeldOut(e.id, because(e.prompt, e.response), None, reason, e.occurred_at, kind="open")
    request = TraceRequest(
        user_id=one.user, query=row.query, target=reason, asked_at=e.occurred_at, mode="personal", thinking=thinking
    )
    return Asked("reason", arm, one.user, row, request, None)
