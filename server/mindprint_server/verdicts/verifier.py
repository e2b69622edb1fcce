"""Takes a candidate through the verdicts, cheap before dear, and keeps every score that was computed on the way.

What all candidates of one engagement share (its prompts, how likely the real answer is without thinking) is computed
once, when first needed, in a `EngagementContext`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mindprint.types import Mode, Reason
from mindprint_server.context import ServerContext
from mindprint_server.engine import GenerationOutput
from mindprint_server.memory.neighbors import NeighborIndex
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts import thinking
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import opening_without_reminders
from mindprint_server.prompts.types import Prompt, Question
from mindprint_server.verdicts import checks, likelihood
from mindprint_server.verdicts.context import EngagementContext, MemoryOwner
from mindprint_server.verdicts.likelihood import Answers, Likelihood


@dataclass(frozen=True)
class Verdict:
    answer: str
    choices: dict[str, float] | None
    reason: Reason | None
    """None: nothing is wrong with it."""
    scores: dict[str, float]
    shortfall: float | None = None
    """Nats by which the real answer trails the likeliest choice; None where that was not scored."""


class CandidateVerifier:
    def __init__(
        self, ctx: ServerContext, *, prompts: PromptBuilder, questions: QuestionBuilder, near: NeighborIndex
    ) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._prompts = prompts
        self._questions = questions
        self._near = near
        self._thresholds = checks.Thresholds(
            ctx.settings.min_gain, ctx.settings.min_anchor, ctx.settings.max_hindsight_gap
        )

    # --- one candidate ---

    async def hear(
        self, case: EngagementContext, written: GenerationOutput, thought: str, opening: str, *, hinted: bool
    ) -> Verdict:
        """The verdict on one candidate of the queue's. Raises PromptTooLong, ValueError (choices that read alike)."""
        counts_nothing = opening_without_reminders(opening, self._settings.openings.get("personal", ""))
        s = self._settings
        reason = checks.of_thinking(
            thought, counts_nothing, written.finish, min_words=s.min_thinking_words, answer_lead=s.answer_lead
        ) or self._duplicate(case, thought)
        if reason:
            return Verdict("", None, reason, {})
        question = case.question
        assert question.target is not None
        after = await self.after(case, "self", "personal", thought)
        scores = {"target_logprob": _target(after)}
        answer, shortfall = question.target, None
        if after.choices is not None:
            answer = max(after.choices, key=after.choices.__getitem__)
            shortfall = checks.shortfall(after.choices, question.target)
        if answer != question.target and self._settings.accept_by == "answer":
            # Gain decides nothing here and is not asked for; where it is known it is kept, for a mean over the right
            # ones alone would flatter.
            if (prior := case.known.get(("prior", "self"))) is not None:
                scores |= _weighed(after, prior)
            return Verdict(answer, after.choices, "wrong_answer", scores, shortfall)
        reason = await self._dear(case, after, written, thought, opening, hinted, scores)
        # A brother may have said the same in the meantime.
        reason = reason or self._duplicate(case, thought)
        if reason is None:
            case.accepted.add(checks.fingerprint(thought))
            answer = question.target  # what is trained on, the likeliest or not
        return Verdict(answer, after.choices, reason, scores, shortfall)

    async def probe(self, case: EngagementContext, opening: str) -> float | None:
        """Nats by which the real answer trails the likeliest choice behind an opening that nothing follows: how far off
        the thinking would have to bring it. None for open answers. Raises PromptTooLong, ValueError as `hear`."""
        question = case.question
        if question.choices is None or question.target is None:
            return None
        # What Gain will be measured against is asked for in the same step.
        after, _ = await asyncio.gather(self.after(case, "self", "personal", opening), self.prior(case, "self"))
        assert after.choices is not None
        return checks.shortfall(after.choices, question.target)

    async def _dear(
        self,
        case: EngagementContext,
        after: Likelihood,
        written: GenerationOutput,
        thought: str,
        opening: str,
        hinted: bool,
        scores: dict[str, float],
    ) -> Reason | None:
        scores |= _weighed(after, await self.prior(case, "self"))
        gain = scores["gain"]
        if reason := checks.of_gain(gain, self._thresholds):
            return reason
        if (anchor := await self._anchor(case, "nearest", gain, thought)) is not None:
            scores["anchor"] = anchor
            if reason := checks.of_anchor(anchor, self._thresholds):
                return reason
        compare = checks.sampled(thought, self._settings.anchor_random_share)
        if compare and (anchor := await self._anchor(case, "random", gain, thought)) is not None:
            scores["anchor_random"] = anchor
        if hinted and (gap := await self._hindsight_gap(case, written, opening)) is not None:
            scores["hindsight_gap"] = gap
            return checks.of_hindsight(gap, self._thresholds)
        return None

    def _duplicate(self, case: EngagementContext, thought: str) -> Reason | None:
        return "duplicate" if checks.fingerprint(thought) in case.accepted else None

    # --- the scores ---

    async def prior(self, case: EngagementContext, whose: MemoryOwner) -> Likelihood:
        """log p(y | x, memory): answered at once, in direct mode."""

        async def compute() -> Likelihood:
            prompt = await self.prompt(case, whose, "direct")
            return await self._likelihood(case, prompt.ids, lead="")

        return await case.once(("prior", whose), compute)

    async def after(self, case: EngagementContext, whose: MemoryOwner, mode: Mode, thought: str) -> Likelihood:
        """log p(y | x, memory, thinking)."""
        prompt = await self.prompt(case, whose, mode)
        lead = self._settings.answer_lead
        turn = self._engine.tokenizer.encode(thinking.render_thinking(thought, lead))
        return await self._likelihood(case, prompt.ids + turn, lead=lead)

    async def _likelihood(self, case: EngagementContext, prefix: list[int], *, lead: str) -> Likelihood:
        return await likelihood.score_answers(
            self._engine, prefix, self.answers(case.question, lead), adapter=case.adapter, priority=case.priority
        )

    def answers(self, question: Question, lead: str) -> Answers:
        """Token ids of what may be answered after `lead`; of a long open answer its beginning."""
        tokenizer = self._engine.tokenizer
        closed = question.choices is not None
        texts = question.choices if question.choices is not None else (question.target or "",)
        ways = {text: tokenizer.encode(thinking.answer_suffix(lead, self._prompts.clean(text))) for text in texts}
        if not closed:
            ways = {text: ids[: self._settings.score_tokens] for text, ids in ways.items()}
        return Answers(ways, question.target, closed)

    async def _anchor(self, case: EngagementContext, whose: MemoryOwner, gain: float, thought: str) -> float | None:
        """Gain with the user's own memory less Gain of the same thinking under another user's; None without others."""
        if await self._other(case, whose) is None:
            return None
        # At once: each request waits for a step of the engine, and steps are long where much is written.
        after, prior = await asyncio.gather(self.after(case, whose, "personal", thought), self.prior(case, whose))
        return gain - _gain(after, prior)

    async def _hindsight_gap(self, case: EngagementContext, written: GenerationOutput, opening: str) -> float | None:
        """Nats a token by which seeing the answer made the thinking likelier, on a few of its tokens, evenly spread."""
        ids, seen = written.token_ids, written.logprobs
        if not seen:
            return None
        count = min(self._settings.hindsight_tokens, len(seen))
        places = sorted({round(i * (len(seen) - 1) / max(1, count - 1)) for i in range(count)})
        prompt = await self.prompt(case, "self", "personal")
        prefix = prompt.ids + self._engine.tokenizer.encode(thinking.thinking_prefix(opening))

        async def blind(place: int) -> float:
            before = [*prefix, *ids[:place]]
            [value] = await self._engine.next_logprobs(
                before, [ids[place]], adapter=case.adapter, priority=case.priority
            )
            return value

        unseen = await asyncio.gather(*(blind(place) for place in places))
        return sum(seen[place] for place in places) / len(places) - sum(unseen) / len(places)

    # --- what they share ---

    async def prompt(self, case: EngagementContext, whose: MemoryOwner, mode: Mode) -> Prompt:
        async def compute() -> Prompt:
            question = case.question if whose == "self" else await self._other(case, whose)
            assert question is not None
            return self._prompts.build(question, mode, thinking_tokens=case.thinking_tokens)

        return await case.once(("prompt", whose, mode), compute)

    async def _other(self, case: EngagementContext, whose: MemoryOwner) -> Question | None:
        async def compute() -> Question | None:
            neighbours = await self._near.of(case.question.user_id)
            other = neighbours.nearest if whose == "nearest" else neighbours.random
            return None if other is None else await self._questions.with_memory_of(case.question, other)

        return await case.once(("other", whose), compute)


def _target(likelihood: Likelihood) -> float:
    assert likelihood.target is not None
    return likelihood.target


def _weighed(after: Likelihood, prior: Likelihood) -> dict[str, float]:
    return {"prior_logprob": _target(prior), "gain": _gain(after, prior)}


def _gain(after: Likelihood, prior: Likelihood) -> float:
    """`method.md`: nats a token of the real answer."""
    return (_target(after) - _target(prior)) / max(1, after.tokens)
