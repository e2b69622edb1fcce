"""Decides which engagements are skipped, and how many candidates the others get, hinted and unhinted.

Candidates are generated on demand, unhinted ones first. All decisions are pure functions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import mean

from mindprint.types import BatchRequest, Engagement
from mindprint_server.prompts.types import Question
from mindprint_server.settings import Settings
from mindprint_server.verdicts.verifier import Verdict

# --- which engagements are skipped ---


@dataclass(frozen=True)
class SkipPolicy:
    """Bounds below which an engagement is skipped, because its real answer is unlikely to be reached."""

    min_answer_frequency: float = 0.0
    """Minimum answer frequency of the real answer (`answer_frequency`), 0 to 1; 0 skips nothing."""
    max_prior_shortfall: float | None = None
    """Maximum shortfall of the real answer after the thinking prefix alone, in nats; None skips nothing."""

    @classmethod
    def create(cls, settings: Settings, request: BatchRequest, question: Question) -> SkipPolicy:
        """Return the policy for one engagement of a batch.

        It skips closed questions only, and only if acceptance depends on the answer (`accept_by=answer`). For an
        exhaustive batch it skips none as unlikely, because every trace counts there (docs/decisions/006).
        """
        by_answer = request.mode == "personal" and settings.accept_by == "answer" and question.choices is not None
        if not by_answer or is_exhaustive(settings, request):
            return cls()
        return cls(
            settings.min_answer_frequency, settings.early_stop_margin_nats if settings.prefilter_by_prior else None
        )


@dataclass(frozen=True)
class EngagementFacts:
    """What is known about an engagement before anything is generated; None: not known, or not yet."""

    unfit: str | None = None
    """Why no thinking can be generated about it: `no_history` or `no_answer`."""
    answer_frequency: float | None = None
    """Share of the real answer among the user's past answers (`answer_frequency`)."""
    prior_shortfall: float | None = None
    """Shortfall of the real answer after the thinking prefix alone, in nats."""


def skip_reason(facts: EngagementFacts, policy: SkipPolicy) -> str | None:
    """Return why an engagement is skipped, cheapest reason first; None if it is attempted."""
    frequency, shortfall = facts.answer_frequency, facts.prior_shortfall
    if facts.unfit is not None:
        return facts.unfit
    if frequency is not None and frequency < policy.min_answer_frequency:
        return "rare_answer"
    if shortfall is not None and policy.max_prior_shortfall is not None and shortfall > policy.max_prior_shortfall:
        return "prior_too_low"
    return None


def answer_frequency(
    answer: str, choices: Collection[str], recalled: Sequence[Engagement], past: Sequence[Engagement]
) -> float | None:
    """Return how often the user gave this answer before: the mean of two shares, 0 to 1.

    One is the share of `answer` among the `recalled` engagements, the other among all `past` ones. Only engagements
    with the same choices count.

    Args:
        answer: The real answer.
        choices: The choices of the question; their order does not matter.
        recalled: Past engagements that the prompt shows.
        past: All past engagements that are considered.

    Returns:
        None where no past engagement has the same choices.
    """
    among = set(choices)
    shares = [
        mean(engagement.response == answer for engagement in alike)
        for engagements in (recalled, past)
        if (alike := [engagement for engagement in engagements if set(engagement.choices or ()) == among])
    ]
    return mean(shares) if shares else None


def is_exhaustive(settings: Settings, request: BatchRequest) -> bool:
    """Return whether a batch skips no engagement as unlikely and stops none early."""
    return settings.exhaustive if request.exhaustive is None else request.exhaustive


# --- how many candidates the others get ---


@dataclass(frozen=True)
class SamplingPolicy:
    """How many candidates an engagement gets, and when to stop early."""

    max_candidates: int
    """Candidates that one engagement gets at most (K)."""
    candidates_per_round: int
    """Candidates generated at once; another round follows only where none was accepted."""
    unhinted_candidates: int
    """Candidates before the prompt shows the real answer; 0 shows it from the first one on."""
    hints: bool
    """Whether the prompt ever shows the real answer."""
    early_stop_margin_nats: float | None
    """Shortfall in nats above which a candidate counts as far off. If all are far off, further candidates hardly ever
    help (docs/decisions/006). None: no candidate counts as far off by its shortfall."""
    early_stop_score_margin: float | None = None
    """Deficit in nats a token above which a candidate counts as far off; None: none does by its deficit."""

    @classmethod
    def create(cls, settings: Settings, request: BatchRequest, *, spare_candidates: int = 0) -> SamplingPolicy:
        """Return the policy of a batch.

        Args:
            settings: The server's settings.
            request: The batch's request. Its values replace those of the settings.
            spare_candidates: Candidates for which the engine has free slots; a round generates at least as many.
        """
        # Only personal thinking is trained on. People read the other modes, so one candidate is enough.
        for_training = request.mode == "personal"
        exhaustive = is_exhaustive(settings, request)
        return cls(
            max_candidates=request.candidates or (settings.candidates if for_training else 1),
            candidates_per_round=max(request.candidates_per_round or settings.candidates_per_round, spare_candidates),
            unhinted_candidates=settings.unhinted_candidates if request.unhinted is None else request.unhinted,
            hints=for_training and (settings.hints if request.hints is None else request.hints),
            early_stop_margin_nats=settings.early_stop_margin_nats
            if settings.accept_by == "answer" and not exhaustive
            else None,
            early_stop_score_margin=None if exhaustive else settings.early_stop_score_margin,
        )


@dataclass(frozen=True)
class CandidateRound:
    """Candidates to generate now."""

    numbers: range
    """Numbers of the candidates; the engagement's first candidate has number 0."""
    hinted: bool


def next_round(verdicts: Sequence[Verdict], policy: SamplingPolicy) -> CandidateRound | None:
    """Return which candidates to generate next for one engagement; None when it is done.

    Args:
        verdicts: Verdicts on the engagement's candidates so far.
        policy: The maximum number of candidates, and when to stop early.
    """
    done = len(verdicts)
    if done >= policy.max_candidates or any(verdict.label == "accepted" for verdict in verdicts):
        return None
    if _is_out_of_reach(verdicts, policy):
        return None
    unhinted = min(policy.unhinted_candidates, policy.max_candidates) if policy.hints else policy.max_candidates
    hinted = done >= unhinted
    end = policy.max_candidates if hinted else unhinted
    return CandidateRound(range(done, min(done + policy.candidates_per_round, end)), hinted)


def _is_out_of_reach(verdicts: Sequence[Verdict], policy: SamplingPolicy) -> bool:
    """Return whether all scored candidates were far off; False if none was scored."""
    far = [_is_far(verdict, policy) for verdict in verdicts]
    return True in far and False not in far


def _is_far(verdict: Verdict, policy: SamplingPolicy) -> bool | None:
    if verdict.deficit is not None:
        return policy.early_stop_score_margin is not None and verdict.deficit > policy.early_stop_score_margin
    if verdict.shortfall is None:
        return None
    return policy.early_stop_margin_nats is not None and verdict.shortfall > policy.early_stop_margin_nats
