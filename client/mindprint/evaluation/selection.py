"""Which of the written candidates an adapter learns from. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindprint.evaluation.book import digest
from mindprint.types import GivenTrace, Trace

OF_SCORES = ("wrong_answer", "low_gain", "low_anchor", "hindsight")
"""Reasons that speak against what thinking leads to, not against the thinking."""
JUDGED = ("low_gain", "low_anchor", "hindsight")
"""Reasons of candidates whose answer was right: only a score spoke against them."""


@dataclass(frozen=True)
class Thresholds:
    """In nats a token. None leaves what the service decided; a figure judges its stored scores anew."""

    gain: float | None = None
    anchor: float | None = None


def selected(candidates: Sequence[Trace], bounds: Thresholds) -> list[GivenTrace]:
    """What the service accepted, or what passes other bounds: of each engagement the first. Of the others comes the
    first blind one that only its answer or a score spoke against: as not selected, for the answer after it."""
    lessons = _first(t for t in candidates if _passes(t, bounds))
    if not lessons:
        return []
    taught = {trace.engagement_id for trace in lessons}
    others = _first(
        t for t in candidates if t.engagement_id not in taught and t.reason in OF_SCORES and not t.provenance.saw_answer
    )
    return [given(trace) for trace in lessons] + [given(trace, selected=False) for trace in others]


def hinted(candidates: Iterable[Trace], right: Mapping[str, bool]) -> list[GivenTrace]:
    """PRIME's steps 3 to 5: of the engagements that the base answers rightly at once, the first trace whose writer saw
    the answer and which leads there. An open answer, which is neither right nor wrong, passes."""
    leads = (t for t in candidates if t.verdict == "accepted" or t.reason in JUDGED)
    return [
        given(t) for t in _first(t for t in leads if t.provenance.saw_answer and right.get(str(t.engagement_id), True))
    ]


def shuffled(lessons: Sequence[GivenTrace], seed: str) -> list[GivenTrace]:
    """Each thinking under another engagement of the same user; empty where there are not two."""
    if sum(lesson.selected for lesson in lessons) < 2:
        return []
    order = random.Random(seed).sample(lessons, len(lessons))
    moved = {one.engagement_id: other for one, other in zip(order, [*order[1:], order[0]], strict=True)}
    return [lesson.model_copy(update={"thinking": moved[lesson.engagement_id].thinking}) for lesson in lessons]


def nothing_of(engagement_id: str) -> list[GivenTrace]:
    """A lease needs a trace; training that gives thinking no weight never looks at it."""
    return [GivenTrace(engagement_id=engagement_id, thinking="Nothing is learned from this.")]


def given(trace: Trace, *, selected: bool = True) -> GivenTrace:
    assert trace.engagement_id is not None
    return GivenTrace(
        engagement_id=trace.engagement_id,
        thinking=trace.thinking,
        saw_answer=trace.provenance.saw_answer,
        scores=trace.scores,
        selected=selected,
    )


def candidate_row(trace: Trace, seed: int, recipe: str, used: bool) -> dict[str, Any]:
    """A line of candidates.jsonl.gz."""
    return {
        "seed": seed,
        "user": trace.user_id,
        "recipe": recipe,
        "engagement": trace.engagement_id,
        "verdict": trace.verdict,
        "reason": trace.reason,
        "hinted": trace.provenance.saw_answer,
        **{name: trace.scores.get(name) for name in ("gain", "anchor", "anchor_random", "hindsight_gap")},
        "target_logprob": trace.scores.get("target_logprob"),
        "thinking": trace.thinking,
        "thinking_tokens": trace.thinking_tokens,
        "used": used,
    }


def trainee(user_id: str, recipe: str, content: Any) -> str:
    """The name of the user who is trained in a user's place: other content, another name."""
    return f"{user_id[:40]}.{recipe}-{digest(content)[:8]}"


def _passes(trace: Trace, bounds: Thresholds) -> bool:
    if bounds == Thresholds() or trace.reason not in (None, "low_gain", "low_anchor"):
        return trace.verdict == "accepted"
    gain, anchor = trace.scores.get("gain"), trace.scores.get("anchor")
    return (bounds.gain is None or (gain is not None and gain >= bounds.gain)) and (
        bounds.anchor is None or anchor is None or anchor >= bounds.anchor
    )


def _first(traces: Iterable[Trace]) -> list[Trace]:
    found: dict[str, Trace] = {}
    for trace in traces:
        found.setdefault(str(trace.engagement_id), trace)
    return list(found.values())
