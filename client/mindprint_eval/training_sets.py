"""Choose the candidates that an adapter learns from. All functions are pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindprint.types import CORRECT_ANSWER_REASONS, SCORE_REASONS, ImportedTrace, Trace
from mindprint_eval.response_cache import content_digest


@dataclass(frozen=True)
class Thresholds:
    """Bounds in nats a token that judge the stored scores again; None keeps the decision of the service."""

    gain: float | None = None
    anchor: float | None = None


def select_accepted(candidates: Sequence[Trace], bounds: Thresholds) -> list[ImportedTrace]:
    """Choose the first accepted candidate of each engagement, and the first sound unhinted one before it.

    The latter is not selected: only the answer after its thinking is learned.

    Args:
        candidates: All candidates of one user, in the order of generation.
        bounds: Bounds in place of the decision of the service.
    """
    accepted = {trace.id for trace in _first(t for t in candidates if _passes(t, bounds))}
    if not accepted:
        return []
    sound = (
        t for t in candidates if not t.provenance.saw_answer and (t.verdict == "accepted" or t.reason in SCORE_REASONS)
    )
    wanted = accepted | {trace.id for trace in _first(sound)}
    return [as_imported_trace(trace, selected=trace.id in accepted) for trace in candidates if trace.id in wanted]


def select_hinted(candidates: Iterable[Trace], right: Mapping[str, bool]) -> list[ImportedTrace]:
    """Choose traces by steps 3 to 5 of PRIME: hinted thinking that leads to the answer, one an engagement.

    Only engagements that the base model answers rightly without thinking count. Open answers are neither right nor
    wrong and pass.

    Args:
        candidates: All candidates of one user.
        right: Whether the base model answers an engagement rightly, by its id.
    """
    leads = (t for t in candidates if t.verdict == "accepted" or t.reason in CORRECT_ANSWER_REASONS)
    return [
        as_imported_trace(t)
        for t in _first(t for t in leads if t.provenance.saw_answer and right.get(str(t.engagement_id), True))
    ]


def shuffle_thinking(lessons: Sequence[ImportedTrace], seed: str) -> list[ImportedTrace]:
    """Move each thinking to another engagement of the same user, selected and other thinking apart.

    Returns nothing if fewer than two traces are selected. A single trace that was not selected is left out.

    Args:
        lessons: The training set of one user.
        seed: Seeds the shuffle.
    """
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
    """Return a trace for trainings that learn answers alone: a lease needs one, but its thinking has no weight."""
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
    """Return a row of candidates.jsonl.gz."""
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
    """Return the id of the user who is trained in place of a user; other content gives another id."""
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
