"""Reasons that users wrote, scored after a trace, after generic thinking, and after none.

The writer of a trace never sees the reason. The likelier the trace makes it, the closer is the trace to the user's own
thinking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.types import Engagement, ImportedTrace, TraceRequest
from mindprint_eval.requests import EvalRequest, rationale_query
from mindprint_eval.results import Outcome

MAX_RATIONALES = 8
"""Maximum number of traces of one user, the newest."""


@dataclass(frozen=True)
class HumanRationale:
    """An engagement whose reason the user wrote, and the trace that was selected for it."""

    user: str
    engagement: Engagement
    thinking: str

    @property
    def reason(self) -> str:
        assert self.engagement.reason is not None
        return self.engagement.reason


def collect_rationales(user: UserDataset, lessons: Sequence[ImportedTrace]) -> list[HumanRationale]:
    by_id = {engagement.id: engagement for engagement in user.engagements}
    found = [HumanRationale(user.user_id, by_id[one.engagement_id], one.thinking) for one in lessons if one.selected]
    return [one for one in found if (one.engagement.reason or "").strip()][-MAX_RATIONALES:]


def generic_thinking_request(one: HumanRationale) -> EvalRequest:
    """Return a request for generic thinking about the same engagement."""
    e = one.engagement
    row = HeldOutQuestion(e.id, e.prompt, e.choices, e.response, e.occurred_at)
    request = TraceRequest(
        user_id=one.user,
        query=e.prompt,
        choices=e.choices,
        target=e.response,
        asked_at=e.occurred_at,
        mode="generic",
        temperature=0.0,
    )
    return EvalRequest("reason", "A2", one.user, row, request, None)


def with_alternatives(
    told: Sequence[HumanRationale], generic: Sequence[Outcome]
) -> Iterator[tuple[HumanRationale, str | None, str | None]]:
    """Each trace, generic thinking about the same question, the next other user's reason; None where there is none."""
    for place, (one, general) in enumerate(zip(told, generic, strict=True)):
        foreign = (other.reason for other in [*told[place + 1 :], *told[:place]] if other.user != one.user)
        yield one, general.thinking if general.outcome == "answered" else None, next(foreign, None)


def rationale_requests(told: Sequence[HumanRationale], generic: Sequence[Outcome]) -> list[EvalRequest]:
    """Return the requests that score written reasons.

    For each trace: its user's reason after none (`R-none`), generic thinking (`R-generic`) and the trace (`R-trace`);
    the next user's after none and the trace (`R-other-none`, `R-other-trace`).
    """
    asked = []
    for one, general, foreign in with_alternatives(told, generic):
        asked += [_ask("R-none", one, "", one.reason), _ask("R-trace", one, one.thinking, one.reason)]
        if general is not None:
            asked.append(_ask("R-generic", one, general, one.reason))
        if foreign is not None:
            asked += [_ask("R-other-none", one, "", foreign), _ask("R-other-trace", one, one.thinking, foreign)]
    return asked


def _ask(arm: str, one: HumanRationale, thinking: str, reason: str) -> EvalRequest:
    e = one.engagement
    row = HeldOutQuestion(e.id, rationale_query(e.prompt, e.response), None, reason, e.occurred_at, kind="open")
    request = TraceRequest(
        user_id=one.user, query=row.query, target=reason, asked_at=e.occurred_at, mode="personal", thinking=thinking
    )
    return EvalRequest("reason", arm, one.user, row, request, None)
