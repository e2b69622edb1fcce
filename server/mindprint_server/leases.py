"""What a trainer gets with a lease: the accepted traces as slow samples, the user's engagements as fast ones."""

from __future__ import annotations

from mindprint.types import Engagement, Lease, LeaseRequest, LoraLimits, Sample, Trace
from mindprint_server import thinking
from mindprint_server.asking import Asker
from mindprint_server.engine import PromptTooLong
from mindprint_server.memory import Memory, Timeline
from mindprint_server.settings import Settings
from mindprint_server.store import Store


class LeaseDesk:
    def __init__(self, settings: Settings, store: Store, asker: Asker, memory: Memory, base_digest: str) -> None:
        self._settings = settings
        self._store = store
        self._asker = asker
        self._memory = memory
        self._base_digest = base_digest

    @property
    def limits(self) -> LoraLimits:
        return LoraLimits(max_rank=self._settings.max_lora_rank, target_modules=list(self._settings.target_modules))

    async def claim(self, request: LeaseRequest) -> Lease | None:
        """Claims traces and brings their samples; None when no adapter has enough waiting."""
        lease = await self._store.claim(
            owner=request.owner,
            adapter=request.adapter,
            ttl_s=request.ttl_s,
            min_traces=request.min_traces,
            max_traces=request.max_traces,
            max_attempts=self._settings.max_attempts,
        )
        if lease is None:
            return None
        traces = await self._store.lease_traces(lease.id)
        samples = [slow(trace) for trace in traces]
        for user_id in dict.fromkeys(trace.user_id for trace in traces):
            samples += await self._fast(user_id)
        return self.fill(lease).model_copy(update={"samples": samples})

    def fill(self, lease: Lease) -> Lease:
        """A lease from the store, with what only the server knows."""
        return lease.model_copy(update={"base_digest": self._base_digest, "limits": self.limits})

    async def _fast(self, user_id: str) -> list[Sample]:
        """The ordinary objective: every engagement of the user, newest first up to the bound, answered directly."""
        timeline = await self._memory.timeline(user_id)
        newest = timeline.engagements[max(0, len(timeline.engagements) - self._settings.max_fast_samples) :]
        samples = [await self._answered(user_id, engagement, timeline) for engagement in newest]
        return [sample for sample in samples if sample is not None]

    async def _answered(self, user_id: str, engagement: Engagement, timeline: Timeline) -> Sample | None:
        question = await self._asker.about(user_id, engagement.id, timeline)
        try:
            prompt = self._asker.prompt(question, "direct", thinking_tokens=self._settings.max_thinking_tokens)
        except PromptTooLong:
            return None
        return Sample(kind="fast", engagement_id=engagement.id, prompt=prompt.text, answer=engagement.response)


def slow(trace: Trace) -> Sample:
    """An accepted trace as the writer saw and wrote it."""
    assert trace.engagement_id is not None
    lead = str(trace.provenance.sampling.get("answer_lead", ""))
    return Sample(
        kind="slow",
        engagement_id=trace.engagement_id,
        trace_id=trace.id,
        prompt=trace.prompt,
        thinking=thinking.wrap(trace.thinking, lead),
        answer=thinking.after(lead, trace.answer),
    )
