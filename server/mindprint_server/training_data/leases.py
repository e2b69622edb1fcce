"""What a trainer gets with a lease: accepted traces as slow samples, engagements as fast ones, some replay."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from mindprint.types import SCORE_REASONS, Engagement, Lease, LeaseRequest, LoraLimits, Sample
from mindprint_server.context import ServerContext
from mindprint_server.engine import PromptTooLong
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts import thinking
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.store import ClaimPolicy, Replay
from mindprint_server.training_data.replay import ReplayBuffer
from mindprint_server.training_data.samples import (
    allocate_evenly,
    answer_sample,
    answering_traces,
    asked_by,
    choices_of,
    engagements_of,
    slow_sample,
    traces_of,
)


class LeaseService:
    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        questions: QuestionBuilder,
        memory: MemoryService,
        replays: ReplayBuffer,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._prompts = prompts
        self._questions = questions
        self._memory = memory
        self._replays = replays
        self._metrics = ctx.metrics
        self._claim_policy = ClaimPolicy(
            max_attempts=ctx.settings.max_attempts,
            holdout=ctx.settings.holdout,
            start_from=ctx.settings.start_from,
            cohort_min_traces=ctx.settings.cohort_min_traces,
        )

    async def stop(self) -> None:
        """Ends what is being written in the background."""
        await self._replays.stop()

    @property
    def limits(self) -> LoraLimits:
        return LoraLimits(max_rank=self._settings.max_lora_rank, target_modules=list(self._settings.target_modules))

    async def claim(self, request: LeaseRequest) -> Lease | None:
        """Claims traces and brings their samples; None when no adapter has enough waiting."""
        s = self._settings
        self._replays.ensure_started()
        lease = await self._store.leases.claim(request, self._claim_policy)
        if lease is None:
            return None
        traces = await self._store.traces.list_of_lease(lease.id)
        timelines = {
            user_id: await self._memory.read_history(user_id) for user_id in sorted({t.user_id for t in traces})
        }
        fast = await self._fast(timelines, lease.held_out)
        rejected = await self._after_rejected(fast, timelines)
        await self._store.leases.record_samples(lease.id, engagements_of(fast), traces_of(rejected))
        opening, answering = s.openings.get("personal", ""), answering_traces(traces, asked_by(rejected))
        learned = [slow_sample(t, opening, choices_of(t, timelines), answered=t.id in answering) for t in traces]
        samples = learned + fast + rejected
        samples += await self._replayed(lease, len(samples), min(s.replay_wait_s, request.ttl_s / 4))
        return self.fill(lease).model_copy(update={"samples": samples})

    def fill(self, lease: Lease) -> Lease:
        """A lease from the store, with what only the server knows."""
        return lease.model_copy(update={"base_digest": self._engine.info().base_digest, "limits": self.limits})

    # --- the ordinary objective ---

    async def _fast(self, timelines: Mapping[str, UserHistory], held_out: Mapping[str, Sequence[str]]) -> list[Sample]:
        """The engagements of these users but for the held-out ones, answered directly: the newest of each, as many of
        each as of any other, up to the bound in all."""
        eligible = {
            user_id: [e for e in timeline.engagements if e.id not in held_out.get(user_id, ())]
            for user_id, timeline in timelines.items()
        }
        counts = allocate_evenly(
            {user_id: len(mine) for user_id, mine in eligible.items()}, self._settings.max_fast_samples
        )
        samples = [
            await self._answered(user_id, engagement, timelines[user_id])
            for user_id, mine in eligible.items()
            for engagement in mine[len(mine) - counts[user_id] :]
        ]
        return [sample for sample in samples if sample is not None]

    async def _answered(self, user_id: str, engagement: Engagement, timeline: UserHistory) -> Sample | None:
        question = await self._questions.for_engagement(user_id, engagement.id, timeline)
        try:
            prompt = self._prompts.build(question, "direct", thinking_tokens=self._settings.max_thinking_tokens)
        except PromptTooLong:
            return None
        return Sample(
            kind="fast",
            user_id=user_id,
            engagement_id=engagement.id,
            prompt=prompt.text,
            answer=engagement.response,
            choices=list(engagement.choices or ()),
        )

    async def _after_rejected(self, fast: Sequence[Sample], timelines: Mapping[str, UserHistory]) -> list[Sample]:
        """The real answers of these engagements after the first thinking, where it is no lesson itself."""
        if not self._settings.answer_rejected:
            return []
        real = {(sample.user_id, sample.engagement_id): sample.answer for sample in fast}
        samples = []
        for user_id in engagements_of(fast):
            for trace in await self._store.traces.list_first_rejected(user_id, SCORE_REASONS):
                if answer := real.get((user_id, str(trace.engagement_id))):
                    samples.append(answer_sample(trace, answer, choices_of(trace, timelines)))
        return samples

    # --- replay ---

    async def _replayed(self, lease: Lease, samples: int, wait_s: float) -> list[Sample]:
        """A share of `samples`, rounded up; fewer, and counted, where they are not written yet.

        Drawn by the adapter and the traces, not by the lease: after a crash the next lease of the same traces brings
        the same samples, and so the training goes on from its checkpoint.
        """
        wanted = math.ceil(self._settings.replay_share * samples)
        if not wanted:
            return []
        there = await self._replays.get(wait_s)
        self._metrics.replays_missing.inc(max(0, min(wanted, self._replays.total) - len(there)))
        by = "\n".join([lease.adapter, *sorted(lease.trace_ids)])
        drawn = sorted(there, key=lambda replay: random.Random(f"{by}\n{replay.position}").random())
        return [self._replay(replay) for replay in drawn[:wanted]]

    def _replay(self, replay: Replay) -> Sample:
        lead = self._settings.answer_lead
        opening, body = thinking.split(replay.thinking, self._settings.openings.get("generic", ""))
        return Sample(
            kind="replay",
            engagement_id=f"replay/{replay.position}",
            prompt=replay.prompt + thinking.OPEN,
            opening=opening,
            thinking=body,
            closing=thinking.CLOSE + lead,
            answer=thinking.answer_suffix(lead, replay.answer),
        )
