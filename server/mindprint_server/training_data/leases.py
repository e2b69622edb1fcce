"""Leases: a trainer's claim on accepted traces, with the samples that it trains on.

Slow samples are accepted traces, fast samples are engagements answered directly, replay samples are generic thinking.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from mindprint.types import SCORE_REASONS, Engagement, Lease, LeaseRequest, LoraLimits, Sample, Trace
from mindprint_server.context import ServerContext
from mindprint_server.engine import PromptTooLong
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.store import ClaimPolicy, Holdout
from mindprint_server.training_data.replay import ReplayBuffer
from mindprint_server.training_data.samples import (
    SampleWriter,
    allocate_evenly,
    choices_of,
    engagement_ids_by_user,
    engagement_keys,
    first_trace_ids,
    sample_bytes,
    take_fitting,
    trace_ids_by_user,
)


class LeaseService:
    """Hands out leases with their samples."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        questions: QuestionBuilder,
        memory: MemoryService,
        replays: ReplayBuffer,
        holdout: Holdout,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._prompts = prompts
        self._questions = questions
        self._memory = memory
        self._replays = replays
        self._metrics = ctx.metrics
        self._quotas = ctx.stored_quotas
        self._writer = SampleWriter(
            TurnWriter(ctx.engine.tokenizer), prompts.clean, ctx.settings.thinking_prefixes.get("personal", "")
        )
        self._began = time.monotonic()
        self._claim_policy = ClaimPolicy(
            max_attempts=ctx.settings.max_attempts,
            holdout=holdout,
            start_from=ctx.settings.start_from,
            cohort_min_traces=ctx.settings.cohort_min_traces,
            base_digest=ctx.engine.info().base_digest,
            max_trace_bytes=ctx.settings.max_lease_bytes // 2,
        )

    async def stop(self) -> None:
        """Stop generating replays in the background."""
        await self._replays.stop()

    @property
    def limits(self) -> LoraLimits:
        """Bounds on the LoRA configuration that this server accepts."""
        return LoraLimits(max_rank=self._settings.max_lora_rank, target_modules=list(self._settings.target_modules))

    async def claim(self, request: LeaseRequest) -> Lease | None:
        """Claim the traces of one adapter and return them with their samples; None if no adapter has enough.

        The texts of all samples together take at most `max_lease_bytes`, unless a single trace takes more.

        Raises:
            LimitExceeded: The named adapter would be one more than the tenant may have.
        """
        settings = self._settings
        self._replays.ensure_started()
        if request.adapter is not None:
            await self._quotas.check_adapter(request.adapter)
        policy = replace(
            self._claim_policy,
            may_add_adapters=await self._quotas.may_add_adapter(),
            ends_expired=time.monotonic() - self._began >= settings.lease_grace_s,
        )
        lease = await self._store.leases.claim(request, policy)
        if lease is None:
            return None
        traces = await self._store.traces.list_of_lease(lease.id)
        users = sorted({trace.user_id for trace in traces})
        histories = {user_id: await self._memory.read_history(user_id) for user_id in users}
        all_ids = {trace.id for trace in traces}
        # Accepted traces were chosen to fit half of the space. The others get what is left, in turn.
        space = settings.max_lease_bytes - await asyncio.to_thread(self._count_slow_bytes, traces, histories, all_ids)
        fast = await _take_fitting(await self._fast_samples(histories, lease.held_out), space // 2)
        space -= await _count_bytes(fast)
        rejected = await _take_fitting(await self._answer_samples(fast, histories), space // 2)
        space -= await _count_bytes(rejected)
        await self._store.leases.record_samples(lease.id, engagement_ids_by_user(fast), trace_ids_by_user(rejected))
        answered = first_trace_ids(traces, exclude=engagement_keys(rejected))
        slow = await asyncio.to_thread(self._slow_samples, traces, histories, answered)
        samples = [*slow, *fast, *rejected]
        wait_s = min(settings.replay_wait_s, request.ttl_s / 4)
        samples += await _take_fitting(await self._replay_samples(lease, len(samples), wait_s), space)
        return self.complete_lease(lease).model_copy(update={"samples": samples})

    def _count_slow_bytes(
        self, traces: Sequence[Trace], histories: Mapping[str, UserHistory], answered: Set[str]
    ) -> int:
        return sum(map(sample_bytes, self._slow_samples(traces, histories, answered)))

    def _slow_samples(
        self, traces: Sequence[Trace], histories: Mapping[str, UserHistory], answered: Set[str]
    ) -> list[Sample]:
        """Return the samples of accepted traces. Those in `answered` teach the answer too."""
        return [
            self._writer.slow(trace, choices_of(trace, histories), answered=trace.id in answered) for trace in traces
        ]

    def complete_lease(self, lease: Lease) -> Lease:
        """Return a lease from the store with what the engine knows: base model, end of a turn, LoRA limits."""
        return lease.model_copy(
            update={
                "base_digest": self._engine.info().base_digest,
                "end_of_turn": self._engine.tokenizer.chat_format.end_id,
                "limits": self.limits,
            }
        )

    # --- fast samples ---

    async def _fast_samples(
        self, histories: Mapping[str, UserHistory], held_out: Mapping[str, Sequence[str]]
    ) -> list[Sample]:
        """Return the newest engagements that are not held out, evenly over the users, up to `max_fast_samples`."""
        excluded = {user_id: frozenset(ids) for user_id, ids in held_out.items()}
        eligible = {
            user_id: [
                engagement for engagement in history.engagements if engagement.id not in excluded.get(user_id, ())
            ]
            for user_id, history in histories.items()
        }
        counts = allocate_evenly(
            {user_id: len(engagements) for user_id, engagements in eligible.items()}, self._settings.max_fast_samples
        )
        samples = [
            await self._fast_sample(user_id, engagement, histories[user_id])
            for user_id, engagements in eligible.items()
            for engagement in engagements[len(engagements) - counts[user_id] :]
        ]
        return [sample for sample in samples if sample is not None]

    async def _fast_sample(self, user_id: str, engagement: Engagement, history: UserHistory) -> Sample | None:
        question = await self._questions.for_engagement(user_id, engagement.id, history)
        try:
            prompt = self._prompts.build(question, "direct", thinking_tokens=self._settings.max_thinking_tokens)
        except PromptTooLong:
            return None
        return self._writer.fast(user_id, engagement, prompt)

    async def _answer_samples(self, fast: Sequence[Sample], histories: Mapping[str, UserHistory]) -> list[Sample]:
        """Return samples of the real answers of engagements whose first unhinted thinking was rejected."""
        if not self._settings.answer_rejected:
            return []
        answers = {
            (sample.user_id, sample.engagement_id): histories[str(sample.user_id)].by_id[sample.engagement_id].response
            for sample in fast
        }
        samples = []
        for user_id in engagement_ids_by_user(fast):
            for trace in await self._store.traces.list_first_rejected(user_id, SCORE_REASONS):
                if answer := answers.get((user_id, str(trace.engagement_id))):
                    samples.append(self._writer.answer(trace, answer, choices_of(trace, histories)))
        return samples

    # --- replay samples ---

    async def _replay_samples(self, lease: Lease, samples: int, wait_s: float) -> list[Sample]:
        """Return replays as a share of `samples`, rounded up; missing ones are counted.

        Which replays are drawn depends on the adapter and the traces, not on the lease. So after a crash the next lease
        of the same traces has the same samples, and the training continues from its checkpoint.
        """
        wanted = math.ceil(self._settings.replay_share * samples)
        if not wanted:
            return []
        replays = await self._replays.get(wait_s)
        self._metrics.replays_missing.inc(max(0, min(wanted, self._replays.total) - len(replays)))
        seed = "\n".join([lease.adapter, *sorted(lease.trace_ids)])
        drawn = sorted(replays, key=lambda replay: random.Random(f"{seed}\n{replay.position}").random())
        prefix = self._settings.thinking_prefixes.get("generic", "")
        return [self._writer.replay(replay, prefix, self._settings.answer_prefix) for replay in drawn[:wanted]]


async def _take_fitting(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Do as `take_fitting` in a thread: samples may have as many texts as a lease has room for, or more."""
    return await asyncio.to_thread(take_fitting, samples, most)


async def _count_bytes(samples: Sequence[Sample]) -> int:
    return await asyncio.to_thread(lambda: sum(map(sample_bytes, samples)))
