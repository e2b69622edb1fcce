"""Works on one engagement of a batch: draws candidates on demand until one is accepted or nothing more is worth it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from mindprint.types import BatchRequest, Trace
from mindprint_server.context import ServerContext
from mindprint_server.engine import Priority, PromptTooLong
from mindprint_server.generation.candidate import Writer
from mindprint_server.generation.candidate_policy import (
    CandidateOutcome,
    CandidateRound,
    SamplingPolicy,
    answer_frequency,
    next_round,
)
from mindprint_server.generation.concurrency import CacheBudget
from mindprint_server.generation.params import GenerationParams
from mindprint_server.generation.scheduler import Item
from mindprint_server.memory import UserHistory
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.types import Question
from mindprint_server.store import NotFound
from mindprint_server.store.batches import ItemResult
from mindprint_server.verdicts.context import EngagementContext
from mindprint_server.verdicts.verifier import CandidateVerifier


@dataclass(frozen=True)
class UserSnapshot:
    """What is read of a user once for all engagements of a batch."""

    timeline: UserHistory
    accepted: set[str]
    """Fingerprints of the user's accepted thinking."""


class EngagementProcessor:
    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        questions: QuestionBuilder,
        judge: CandidateVerifier,
        writer: Writer,
    ) -> None:
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._prompts = prompts
        self._questions = questions
        self._judge = judge
        self._writer = writer
        self._metrics = ctx.metrics
        self._room = CacheBudget()

    async def at(
        self, item: Item, request: BatchRequest, known: UserSnapshot, spare: Callable[[], int] = lambda: 0
    ) -> ItemResult:
        """What came of one engagement. Raises EngineDied; what else it raises is a fault of the server's.

        `known.accepted` grows by what is accepted. `spare`: candidates that there is
        room for at once, for each engagement, because nothing else is left to do.
        """
        try:
            question = await self._questions.for_engagement(item.user_id, item.engagement_id, known.timeline)
        except NotFound:
            return self.skipped(item, "erased")
        if reason := self._prompts.unfit(question):
            return self.skipped(item, reason)
        unlikely_waits = self._unlikely_waits(question, request)
        if unlikely_waits and await self._little_precedent(item, question, known.timeline):
            return self.skipped(item, "little_precedent")
        tokens = request.max_thinking_tokens or self._settings.max_thinking_tokens
        case = EngagementContext(question, tokens, None, Priority.BATCH, known.accepted)
        written: list[Trace] = []
        try:
            prompt = await self._judge.prompt(case, "self", request.mode)
            with self._room.take(len(prompt.ids) + tokens, self._engine.info().cache_tokens) as turn:
                reach = self._settings.give_up if self._settings.probe else None
                if unlikely_waits and reach is not None:
                    opening = self._prompts.opening(request.mode, question.memory)
                    trailing = await self._judge.probe(replace(case, priority=turn.priority), opening)
                    if trailing is not None and trailing > reach:
                        return self.skipped(item, "out_of_reach")
                    turn.began()
                while draw := next_round([self._outcome(trace) for trace in written], self._rules(request, spare())):
                    written += await self._draw(case, item, request, draw, turn.priority)
                    turn.began()
        except PromptTooLong:
            # A hint may be what no longer fits: what was written without it stays.
            if not written:
                return self.skipped(item, "prompt_too_long")
        except ValueError:
            return self.skipped(item, "choices_alike")
        won = any(trace.verdict == "accepted" for trace in written)
        return ItemResult(item.batch_id, item.user_id, item.engagement_id, "accepted" if won else "rejected", written)

    def _unlikely_waits(self, question: Question, request: BatchRequest) -> bool:
        """Whether the engagement is left out before anything is written where its real answer is unlikely to come:
        where only thinking that leads there can be accepted, unless every trace counts (docs/decisions/006)."""
        by_answer = request.mode == "personal" and self._settings.accept_by == "answer" and question.choices is not None
        return by_answer and not self._thorough(request)

    def _thorough(self, request: BatchRequest) -> bool:
        return self._settings.thorough if request.thorough is None else request.thorough

    async def _little_precedent(self, item: Item, question: Question, timeline: UserHistory) -> bool:
        """Whether the user hardly ever answered so before. An engagement of this kind is not read, let alone probed."""
        if not self._settings.min_precedent:
            return False
        engagement = timeline.by_id[item.engagement_id]
        past = await timeline.before(engagement.occurred_at, engagement.id).newest(self._settings.recall_from)
        share = answer_frequency(engagement.response, question.choices or (), question.memory.episodes, past)
        return share is not None and share < self._settings.min_precedent

    def skipped(self, item: Item, reason: str) -> ItemResult:
        """An engagement that could not be attempted, with its reason for the funnel."""
        self._metrics.skipped.labels(reason=reason).inc()
        return ItemResult(item.batch_id, item.user_id, item.engagement_id, reason)

    def _rules(self, request: BatchRequest, spare: int) -> SamplingPolicy:
        s = self._settings
        # Only personal thinking is for the queue; the other modes are written to be looked at: one of each is enough.
        judged = request.mode == "personal"
        most = request.candidates or (s.candidates if judged else 1)
        thorough = self._thorough(request)
        return SamplingPolicy(
            most=most,
            at_once=max(request.draw or s.draw, spare),
            blind=s.blind_candidates if request.blind is None else request.blind,
            hints=judged and (s.hints if request.hints is None else request.hints),
            give_up=s.give_up if s.accept_by == "answer" and not thorough else None,
            give_up_score=None if thorough else s.give_up_score,
        )

    async def _draw(
        self, case: EngagementContext, item: Item, request: BatchRequest, draw: CandidateRound, priority: Priority
    ) -> list[Trace]:
        """Candidates of one draw; once one is accepted, its brothers are no longer needed and end in the engine too."""
        tasks = {
            asyncio.create_task(
                self._writer.draft(case, self._style(case, item, request, number, draw.hinted, priority))
            )
            for number in draw.numbers
        }
        written: list[Trace] = []
        try:
            while tasks and not (self._settings.cancel_brothers and any(t.verdict == "accepted" for t in written)):
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for result in await asyncio.gather(*done, return_exceptions=True):
                    if isinstance(result, BaseException):
                        raise result
                    written.append(result)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._metrics.cancelled.inc(len(tasks))
        return written

    def _outcome(self, trace: Trace) -> CandidateOutcome:
        """What the next draw has to know of a candidate."""
        target = trace.scores.get("target_logprob")
        trailing = None
        if trace.choice_logprobs is not None and target is not None:
            trailing = max(trace.choice_logprobs.values()) - target
        bounds = {"low_gain": ("gain", self._settings.min_gain), "low_anchor": ("anchor", self._settings.min_anchor)}
        score, bound = bounds.get(trace.reason or "", ("", None))
        below = None if bound is None else bound - trace.scores[score]
        return CandidateOutcome(trace.verdict == "accepted", trace.provenance.saw_answer, trailing, below)

    def _style(
        self, case: EngagementContext, item: Item, request: BatchRequest, number: int, hinted: bool, priority: Priority
    ) -> GenerationParams:
        return GenerationParams(
            mode=request.mode,
            opening=self._prompts.opening(request.mode, case.question.memory),
            max_thinking_tokens=request.max_thinking_tokens or self._settings.max_thinking_tokens,
            temperature=self._settings.temperature if request.temperature is None else request.temperature,
            seed=seed_of(request.seed, item.user_id, item.engagement_id, number),
            judge=request.mode == "personal",
            hinted=hinted,
            batch_id=item.batch_id,
            priority=priority,
        )


def seed_of(*parts: int | str) -> int:
    """The same candidate gets the same seed in every run, and every candidate its own."""
    return int.from_bytes(hashlib.sha256("\x00".join(map(str, parts)).encode()).digest()[:4], "big") >> 1
