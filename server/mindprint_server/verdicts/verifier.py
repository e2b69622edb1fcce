"""Verifies a candidate: measures it stage by stage, cheapest first, and stops at the first check that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mindprint.types import Reason, VerdictLabel
from mindprint_server.engine import GenerationOutput
from mindprint_server.settings import Settings
from mindprint_server.verdicts import checks, likelihood
from mindprint_server.verdicts.checks import Measurements, Stage, ThinkingChecker
from mindprint_server.verdicts.context import EngagementContext, MemoryOwner
from mindprint_server.verdicts.likelihood import Likelihood


@dataclass(frozen=True)
class Verdict:
    """The result of verifying one candidate."""

    label: VerdictLabel
    answer: str
    choices: dict[str, float] | None
    """Log-probability of each choice after the thinking, normalized over the choices."""
    reason: Reason | None
    """Why it was rejected; None if it was not."""
    scores: dict[str, float]
    """Every score that was computed on the way, in nats."""
    shortfall: float | None = None
    """Nats by which the real answer is less likely than the likeliest choice; None if no choices were scored."""
    deficit: float | None = None
    """Nats a token by which Gain or Anchor is below its bound; None unless that score rejected the candidate."""


@dataclass
class _Candidate:
    """A candidate and what the stages have measured so far."""

    context: EngagementContext
    output: GenerationOutput
    thinking_prefix: str
    hinted: bool
    measured: Measurements
    likelihood: Likelihood | None = None
    """Likelihood of the answers after the thinking."""


class CandidateVerifier:
    """Decides whether a candidate may be trained on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._checker = ThinkingChecker(settings)
        self._measure: Mapping[Stage, Callable[[_Candidate], Awaitable[None]]] = {
            "answer": self._measure_answer,
            "gain": self._measure_gain,
            "anchor": self._measure_anchor,
            "anchor_random": self._measure_anchor_random,
            "hindsight": self._measure_hindsight,
        }

    async def verify(
        self, context: EngagementContext, output: GenerationOutput, *, thinking: str, thinking_prefix: str, hinted: bool
    ) -> Verdict:
        """Verify one candidate in personal mode; an accepted thinking is recorded in the context.

        Args:
            context: The engagement's context; its question must have a real answer.
            output: What was generated after the thinking prefix.
            thinking: The whole thinking, with its thinking prefix.
            thinking_prefix: The text with which it was made to begin.
            hinted: Whether the prompt showed the real answer.

        Raises:
            PromptTooLong: The query does not fit the model.
            ValueError: Two choices have the same tokens, or one has none.
        """
        assert context.question.target is not None
        measured = self._checker.measure(
            thinking, thinking_prefix=thinking_prefix, mode="personal", finish=output.finish
        )
        measured.is_duplicate = context.is_duplicate(thinking)
        measured.target = context.question.target
        candidate = _Candidate(context, output, thinking_prefix, hinted, measured)
        failed = await self._score_checks(candidate)
        reason = failed.reason if failed else None
        # A sibling candidate may have been accepted while this one was scored.
        if reason is None and context.is_duplicate(thinking):
            reason = "duplicate"
        if reason is None:
            context.add_accepted(thinking)
            measured.answer = context.question.target  # training uses the real answer, even if it is not the likeliest
        return Verdict(
            label="rejected" if reason else "accepted",
            answer=measured.answer,
            choices=measured.choices,
            reason=reason,
            scores=measured.scores,
            shortfall=None if measured.choices is None else checks.shortfall(measured.choices, measured.target),
            deficit=failed.deficit(measured, self._settings) if failed and failed.deficit else None,
        )

    async def _score_checks(self, candidate: _Candidate) -> checks.CandidateCheck | None:
        """Measure stage by stage until a check fails; return that check."""
        for stage in checks.STAGES:
            if stage in self._measure:
                await self._measure[stage](candidate)
            if failed := checks.first_failed(stage, candidate.measured, self._settings):
                return failed
        return None

    # --- the stages ---

    async def _measure_answer(self, candidate: _Candidate) -> None:
        measured = candidate.measured
        assert measured.target is not None
        candidate.likelihood = after = await candidate.context.answer_logprob_with_thinking(
            measured.thinking, thinking_prefix=candidate.thinking_prefix
        )
        measured.scores["target_logprob"] = _target(after)
        measured.choices = after.choices
        measured.answer = measured.target if after.choices is None else likelihood.likeliest(after.choices)
        # A candidate with a wrong answer is rejected before Gain is needed, so Gain is not computed for it. It is kept
        # where the direct likelihood is known already: a mean Gain of correct answers alone would be too high.
        if (direct := candidate.context.known_answer_logprob_direct()) is not None:
            measured.scores |= _gain_scores(after, direct)

    async def _measure_gain(self, candidate: _Candidate) -> None:
        assert candidate.likelihood is not None
        direct = await candidate.context.answer_logprob_direct()
        candidate.measured.scores |= _gain_scores(candidate.likelihood, direct)

    async def _measure_anchor(self, candidate: _Candidate) -> None:
        if (anchor := await self._anchor(candidate, "nearest")) is not None:
            candidate.measured.scores["anchor"] = anchor

    async def _measure_anchor_random(self, candidate: _Candidate) -> None:
        if not checks.is_sampled(candidate.measured.thinking, self._settings.anchor_random_share):
            return
        if (anchor := await self._anchor(candidate, "random")) is not None:
            candidate.measured.scores["anchor_random"] = anchor

    async def _measure_hindsight(self, candidate: _Candidate) -> None:
        if candidate.hinted and (gap := await self._hindsight_gap(candidate)) is not None:
            candidate.measured.scores["hindsight_gap"] = gap

    # --- the scores ---

    async def _anchor(self, candidate: _Candidate, owner: MemoryOwner) -> float | None:
        """Return Gain with the user's memory minus Gain of the same thinking with another's; None without another."""
        context, measured = candidate.context, candidate.measured
        if not await context.has_other(owner):
            return None
        # Run both scores concurrently: each request waits for a full engine step.
        after, direct = await asyncio.gather(
            context.answer_logprob_with_thinking(
                measured.thinking, owner=owner, thinking_prefix=candidate.thinking_prefix
            ),
            context.answer_logprob_direct(owner),
        )
        return measured.scores["gain"] - _gain(after, direct)

    async def _hindsight_gap(self, candidate: _Candidate) -> float | None:
        """Return by how many nats a token the hint made the thinking likelier, measured on a few spread tokens."""
        with_hint = candidate.output.logprobs
        if not with_hint:
            return None
        last, count = len(with_hint) - 1, min(self._settings.hindsight_tokens, len(with_hint))
        positions = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
        without_hint = await candidate.context.thinking_logprobs(
            candidate.thinking_prefix, candidate.output.token_ids, positions
        )
        return sum(with_hint[position] for position in positions) / len(positions) - sum(without_hint) / len(positions)


def _target(likelihood: Likelihood) -> float:
    assert likelihood.target is not None
    return likelihood.target


def _gain_scores(after: Likelihood, direct: Likelihood) -> dict[str, float]:
    return {"prior_logprob": _target(direct), "gain": _gain(after, direct)}


def _gain(after: Likelihood, direct: Likelihood) -> float:
    """Return Gain in nats a token of the real answer (`method.md`: Gain)."""
    return (_target(after) - _target(direct)) / max(1, after.target_tokens)
