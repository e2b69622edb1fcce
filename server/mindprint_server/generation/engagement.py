"""Processes one engagement of a batch: skips it, or generates candidates until one is accepted or none is likely."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mindprint.types import BatchRequest
from mindprint_server.context import ServerContext
from mindprint_server.engine import Priority, PromptTooLong
from mindprint_server.generation.candidate import Candidate, CandidateGenerator
from mindprint_server.generation.candidate_policy import (
    CandidateRound,
    EngagementFacts,
    SamplingPolicy,
    SkipPolicy,
    answer_frequency,
    next_round,
    skip_reason,
)
from mindprint_server.generation.concurrency import CacheBudget, CacheReservation
from mindprint_server.generation.params import GenerationParams
from mindprint_server.generation.scheduler import Item
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.prompts.types import Question
from mindprint_server.store import RecordNotFound
from mindprint_server.store.batches import ItemResult
from mindprint_server.tenancy import erasure_epoch
from mindprint_server.verdicts import checks
from mindprint_server.verdicts.context import ContextBuilder, EngagementContext


@dataclass(frozen=True)
class UserSnapshot:
    """A user's history and accepted thinking, read once for all engagements of a batch."""

    history: UserHistory
    accepted: set[str]
    """Fingerprints of the user's accepted thinking; processing adds to it."""
    read_epoch: int = 0
    """The tenant's erasure epoch before all this was read."""


class EngagementProcessor:
    """Processes the engagements of batches. Many calls of `process` may run at the same time."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        memory: MemoryService,
        contexts: ContextBuilder,
        candidates: CandidateGenerator,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._memory = memory
        self._contexts = contexts
        self._candidates = candidates
        self._cache = CacheBudget()

    async def read_user(self, user_id: str) -> UserSnapshot:
        """Read what `process` needs of a user."""
        epoch = erasure_epoch()
        history = await self._memory.get_history(user_id)
        accepted = checks.fingerprints(await self._store.traces.list_accepted_texts(user_id))
        return UserSnapshot(history, accepted, epoch)

    async def process(
        self,
        item: Item,
        request: BatchRequest,
        user: UserSnapshot,
        *,
        spare_candidates: Callable[[], int] = lambda: 0,
    ) -> ItemResult:
        """Process one engagement and return its result; store nothing.

        Args:
            item: The engagement.
            request: The request of its batch.
            user: The snapshot of its user. Accepted thinking is added to its `accepted`.
            spare_candidates: Returns for how many candidates the engine has free slots; called before each round.

        Raises:
            EngineDied: The engine is gone. Any other exception is a fault of the server.
        """
        try:
            question = await self._contexts.questions.for_engagement(item.user_id, item.engagement_id, user.history)
        except RecordNotFound:
            return self.skip(item, "erased")
        policy = SkipPolicy.create(self._settings, request, question)
        facts = EngagementFacts(unfit=self._contexts.prompts.unfit(question))
        if policy.min_answer_frequency:
            facts = replace(facts, answer_frequency=await self._answer_frequency(item, question, user.history))
        if reason := skip_reason(facts, policy):
            return self.skip(item, reason)
        context = self._contexts.build(
            question,
            thinking_tokens=request.max_thinking_tokens or self._settings.max_thinking_tokens,
            priority=Priority.BATCH,
            accepted=user.accepted,
        )
        try:
            prompt = await context.prompt(request.mode)
            tokens = len(prompt.ids) + context.thinking_tokens
            with self._cache.reserve(tokens, self._engine.info().cache_tokens) as reservation:
                if policy.max_prior_shortfall is not None:
                    facts = replace(facts, prior_shortfall=await self._prior_shortfall(context, request, reservation))
                if reason := skip_reason(facts, policy):
                    return self.skip(item, reason)
                candidates = await self._generate_candidates(context, item, request, reservation, spare_candidates)
        except PromptTooLong:
            return self.skip(item, "prompt_too_long")
        except ValueError:
            return self.skip(item, "choices_alike")
        outcome = "accepted" if _has_accepted(candidates) else "rejected"
        traces = [candidate.trace for candidate in candidates]
        return ItemResult(item.batch_id, item.user_id, item.engagement_id, outcome, traces)

    def skip(self, item: Item, reason: str) -> ItemResult:
        """Return the result of an engagement that is not attempted, and count its reason."""
        self._metrics.skipped.labels(reason=reason).inc()
        return ItemResult(item.batch_id, item.user_id, item.engagement_id, reason)

    async def _answer_frequency(self, item: Item, question: Question, history: UserHistory) -> float | None:
        engagement = history.by_id[item.engagement_id]
        past = await history.before(engagement.occurred_at, engagement.id).newest(self._settings.recall_from)
        return answer_frequency(engagement.response, question.choices or (), question.memory.episodes, past)

    async def _prior_shortfall(
        self, context: EngagementContext, request: BatchRequest, reservation: CacheReservation
    ) -> float | None:
        thinking_prefix = self._contexts.prompts.thinking_prefix(request.mode, context.question.memory)
        shortfall = await context.with_priority(reservation.priority).prior_shortfall(thinking_prefix)
        reservation.mark_started()
        return shortfall

    async def _generate_candidates(
        self,
        context: EngagementContext,
        item: Item,
        request: BatchRequest,
        reservation: CacheReservation,
        spare_candidates: Callable[[], int],
    ) -> list[Candidate]:
        """Generate candidates round by round until the policy says that the engagement is done."""
        candidates: list[Candidate] = []
        try:
            while plan := self._next_round(candidates, request, spare_candidates()):
                candidates += await self._generate_round(context, item, request, plan, reservation.priority)
                reservation.mark_started()
        except PromptTooLong:
            # Only the prompt with the hint may be too long: keep the unhinted candidates.
            if not candidates:
                raise
        return candidates

    def _next_round(
        self, candidates: Sequence[Candidate], request: BatchRequest, spare_candidates: int
    ) -> CandidateRound | None:
        policy = SamplingPolicy.create(self._settings, request, spare_candidates=spare_candidates)
        return next_round([candidate.verdict for candidate in candidates], policy)

    async def _generate_round(
        self,
        context: EngagementContext,
        item: Item,
        request: BatchRequest,
        plan: CandidateRound,
        priority: Priority,
    ) -> list[Candidate]:
        """Generate the candidates of one round; once one is accepted, its siblings are cancelled in the engine too."""
        tasks = {
            asyncio.create_task(
                self._candidates.generate(context, self._params(context, item, request, number, plan.hinted, priority))
            )
            for number in plan.numbers
        }
        candidates: list[Candidate] = []
        try:
            while tasks and not (self._settings.cancel_siblings_on_accept and _has_accepted(candidates)):
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for result in await asyncio.gather(*done, return_exceptions=True):
                    if isinstance(result, BaseException):
                        raise result
                    candidates.append(result)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._metrics.cancelled.inc(len(tasks))
        return candidates

    def _params(
        self,
        context: EngagementContext,
        item: Item,
        request: BatchRequest,
        number: int,
        hinted: bool,
        priority: Priority,
    ) -> GenerationParams:
        return GenerationParams(
            mode=request.mode,
            thinking_prefix=self._contexts.prompts.thinking_prefix(request.mode, context.question.memory),
            max_thinking_tokens=context.thinking_tokens,
            temperature=self._settings.temperature if request.temperature is None else request.temperature,
            seed=derive_seed(request.seed, item.user_id, item.engagement_id, number),
            is_for_training=request.mode == "personal",
            hinted=hinted,
            batch_id=item.batch_id,
            priority=priority,
        )


def _has_accepted(candidates: Sequence[Candidate]) -> bool:
    return any(candidate.verdict.label == "accepted" for candidate in candidates)


def derive_seed(*parts: int | str) -> int:
    """Return a seed from 0 to 2**31 - 1 that depends on these parts only. Another candidate has another seed.

    Args:
        *parts: What identifies the candidate: the batch's seed, the user, the engagement, the candidate's number.
    """
    return int.from_bytes(hashlib.sha256("\x00".join(map(str, parts)).encode()).digest()[:4], "big") >> 1
