"""Which of the written candidates an adapter learns from. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindprint.types import SCORE_REASONS, ImportedTrace, Trace
from mindprint_eval.response_cache import content_digest

CORRECT_ANSWER_REASONS = ("low_gain", "low_anchor", "hindsight")
"""Reasons of candidates whose answer was right: only a score spoke against them."""


@dataclass(frozen=True)
class Thresholds:
    """In nats a token. None leaves what the service decided; a figure judges its stored scores anew."""

    gain: float | None = None
    anchor: float | None = None


def select_accepted(candidates: Sequence[Trace], bounds: Thresholds) -> list[ImportedTrace]:
    """What the service accepted, or what passes other bounds: of each engagement the first. Before it, where the first
    sound blind one is another, that one: as not selected, for the answer after it."""
    accepted = {trace.id for trace in _first(t for t in candidates if _passes(t, bounds))}
    if not accepted:
        return []
    sound = (
        t for t in candidates if not t.provenance.saw_answer and (t.verdict == "accepted" or t.reason in SCORE_REASONS)
    )
    wanted = accepted | {trace.id for trace in _first(sound)}
    return [as_imported_trace(trace, selected=trace.id in accepted) for trace in candidates if trace.id in wanted]


def select_hinted(candidates: Iterable[Trace], right: Mapping[str, bool]) -> list[ImportedTrace]:
    """PRIME's steps 3 to 5: of the engagements that the base answers rightly at once, the first trace whose writer saw
    the answer and which leads there. An open answer, which is neither right nor wrong, passes."""
    leads = (t for t in candidates if t.verdict == "accepted" or t.reason in CORRECT_ANSWER_REASONS)
    return [
        as_imported_trace(t)
        for t in _first(t for t in leads if t.provenance.saw_answer and right.get(str(t.engagement_id), True))
    ]


def shuffle_thinking(lessons: Sequence[ImportedTrace], seed: str) -> list[ImportedTrace]:
    """Each thinking under another engagement of the same user, selected ones among themselves; empty where there are
    not two of those. A single one that was not selected has nowhere to go and is left out."""
    if sum(lesson.selected for lesson in lessons) < 2:
        return []
    rng = random.Random(seed)
    moved: dict[tuple[str, bool], ImportedTrace] = {}
    for selected in (True, False):
        alike = [lesson for lesson in lessons if lesson.selected is selected]
        order = rng.sample(alike, len(alike))
        if len(order) > 1:
            moved |= {(one.engagement_id, selected): b for one, b in zip(order, [*order[1:], order[0]], strict=True)}
    return [
        lesson.model_copy(update={"thinking": other.thinking})
        for lesson in lessons
        if (other := moved.get((lesson.engagement_id, lesson.selected)))
    ]


def placeholder_trace(engagement_id: str) -> list[ImportedTrace]:
    """A lease needs a trace; training that gives thinking no weight never looks at it."""
    return [ImportedTrace(engagement_id=engagement_id, thinking="Nothing is learned from this.")]


def as_imported_trace(trace: Trace, *, selected: bool = True) -> ImportedTrace:
    assert trace.engagement_id is not None
    return ImportedTrace(
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


def training_user_id(user_id: str, recipe: str, content: Any) -> str:
    """The name of the user who is trained in a user's place: other content, another name."""
    return f"{user_id[:40]}.{recipe}-{content_digest(content)[:8]}"


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
