"""Which engagements are skipped, how many candidates the others get, and of which kind.

Candidates are generated on demand, without a hint first. All decisions are pure functions of what is known.
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
    """Least share of the user's past answers that the real answer must have; 0 skips nothing."""
    max_prior_shortfall: float | None = None
    """Nats by which the real answer may be behind the likeliest choice after the bare thinking prefix; None skips
    nothing."""

    @classmethod
    def create(cls, settings: Settings, request: BatchRequest, question: Question) -> SkipPolicy:
        """Return the policy for one engagement of a batch.

        It applies only where a closed question's thinking must lead to the real answer to be accepted, and not to an
        exhaustive batch, where every trace counts (docs/decisions/006).
        """
        by_answer = request.mode == "personal" and settings.accept_by == "answer" and question.choices is not None
        if not by_answer or is_exhaustive(settings, request):
            return cls()
        return cls(
            settings.min_answer_frequency, settings.early_stop_margin_nats if settings.prefilter_by_prior else None
        )


@dataclass(frozen=True)
class EngagementFacts:
    """What is known of an engagement before anything is generated; None where it is not known, or not yet."""

    unfit: str | None = None
    """Why no thinking can be generated about it: `no_history` or `no_answer`."""
    answer_frequency: float | None = None
    """Share of the real answer among the user's past answers (`answer_frequency`)."""
    prior_shortfall: float | None = None
    """Nats by which the real answer is behind the likeliest choice after the bare thinking prefix."""


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
    """Return how often a user answered so before: the mean of two shares, 0 to 1.

    The shares are of `answer` among the `recalled` engagements, and among all of the `past`. Only engagements with
    the same choices count.

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
    """Return whether every engagement of a batch gets all its candidates until one is accepted."""
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
    """Shortfall above which a candidate counts as far off. If all are, further ones hardly ever help
    (docs/decisions/006). None: no shortfall does."""
    early_stop_score_margin: float | None = None
    """Nats a token by which Gain or Anchor may be under its bound; a candidate further below counts as far off. None:
    none does."""

    @classmethod
    def create(cls, settings: Settings, request: BatchRequest, *, spare_candidates: int = 0) -> SamplingPolicy:
        """Return the policy of a batch.

        Args:
            settings: The server's settings.
            request: The batch's request, whose values go before the settings'.
            spare_candidates: Candidates for which the engine has free slots: a round has at least as many.
        """
        # Only personal thinking is trained on. The other modes are generated to be looked at: one of each is enough.
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
    """Of the candidates, counted from the engagement's first one."""
    hinted: bool


def next_round(verdicts: Sequence[Verdict], policy: SamplingPolicy) -> CandidateRound | None:
    """Return which candidates to generate next for one engagement; None when it is done.

    Args:
        verdicts: On the engagement's candidates so far.
        policy: How many there may be, and when to stop early.
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
    """Whether even the best candidate was far off. Candidates that were never scored say nothing."""
    far = [_is_far(verdict, policy) for verdict in verdicts]
    return True in far and False not in far


def _is_far(verdict: Verdict, policy: SamplingPolicy) -> bool | None:
    if verdict.deficit is not None:
        return policy.early_stop_score_margin is not None and verdict.deficit > policy.early_stop_score_margin
    if verdict.shortfall is None:
        return None
    return policy.early_stop_margin_nats is not None and verdict.shortfall > policy.early_stop_margin_nats
