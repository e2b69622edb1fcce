"""What a trainer gets with a lease: accepted traces as slow samples, engagements as fast ones, some replay."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence, Set

from mindprint.types import OF_SCORES, Engagement, Lease, LeaseRequest, LoraLimits, Sample, Trace
from mindprint_server import thinking
from mindprint_server.asking import Asker
from mindprint_server.engine import PromptTooLong
from mindprint_server.memory import Memory, Timeline
from mindprint_server.metrics import Metrics
from mindprint_server.prompts import silent
from mindprint_server.replay import Replays
from mindprint_server.settings import Settings
from mindprint_server.store import Replay, Store


class LeaseDesk:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        asker: Asker,
        memory: Memory,
        replays: Replays,
        metrics: Metrics,
        base_digest: str,
    ) -> None:
        self._settings = settings
        self._store = store
        self._asker = asker
        self._memory = memory
        self._replays = replays
        self._metrics = metrics
        self._base_digest = base_digest

    async def stop(self) -> None:
        """Ends what is being written in the background."""
        await self._replays.stop()

    @property
    def limits(self) -> LoraLimits:
        return LoraLimits(max_rank=self._settings.max_lora_rank, target_modules=list(self._settings.target_modules))

    async def claim(self, request: LeaseRequest) -> Lease | None:
        """Claims traces and brings their samples; None when no adapter has enough waiting."""
        s = self._settings
        self._replays.begin()
        lease = await self._store.claim(
            owner=request.owner,
            adapter=request.adapter,
            ttl_s=request.ttl_s,
            min_traces=request.min_traces,
            max_traces=request.max_traces,
            max_attempts=s.max_attempts,
            holdout=s.holdout,
            start_from=s.start_from,
            cohort_min_traces=s.cohort_min_traces,
        )
        if lease is None:
            return None
        traces = await self._store.lease_traces(lease.id)
        timelines = {user_id: await self._memory.timeline(user_id) for user_id in sorted({t.user_id for t in traces})}
        fast = await self._fast(timelines, lease.held_out)
        rejected = await self._after_rejected(fast, timelines)
        await self._store.note_samples(lease.id, engagements_of(fast), traces_of(rejected))
        opening, answering = s.openings.get("personal", ""), answering_traces(traces, asked_by(rejected))
        learned = [slow(t, opening, choices_of(t, timelines), answered=t.id in answering) for t in traces]
        samples = learned + fast + rejected
        samples += await self._replayed(lease, len(samples), min(s.replay_wait_s, request.ttl_s / 4))
        return self.fill(lease).model_copy(update={"samples": samples})

    def fill(self, lease: Lease) -> Lease:
        """A lease from the store, with what only the server knows."""
        return lease.model_copy(update={"base_digest": self._base_digest, "limits": self.limits})

    # --- the ordinary objective ---

    async def _fast(self, timelines: Mapping[str, Timeline], held_out: Mapping[str, Sequence[str]]) -> list[Sample]:
        """The engagements of these users but for the held-out ones, answered directly: the newest of each, as many of
        each as of any other, up to the bound in all."""
        eligible = {
            user_id: [e for e in timeline.engagements if e.id not in held_out.get(user_id, ())]
            for user_id, timeline in timelines.items()
        }
        counts = spread({user_id: len(mine) for user_id, mine in eligible.items()}, self._settings.max_fast_samples)
        samples = [
            await self._answered(user_id, engagement, timelines[user_id])
            for user_id, mine in eligible.items()
            for engagement in mine[len(mine) - counts[user_id] :]
        ]
        return [sample for sample in samples if sample is not None]

    async def _answered(self, user_id: str, engagement: Engagement, timeline: Timeline) -> Sample | None:
        question = await self._asker.about(user_id, engagement.id, timeline)
        try:
            prompt = self._asker.prompt(question, "direct", thinking_tokens=self._settings.max_thinking_tokens)
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

    async def _after_rejected(self, fast: Sequence[Sample], timelines: Mapping[str, Timeline]) -> list[Sample]:
        """The real answers of these engagements after the first thinking, where it is no lesson itself."""
        if not self._settings.answer_rejected:
            return []
        real = {(sample.user_id, sample.engagement_id): sample.answer for sample in fast}
        samples = []
        for user_id in engagements_of(fast):
            for trace in await self._store.rejected(user_id, OF_SCORES):
                if answer := real.get((user_id, str(trace.engagement_id))):
                    samples.append(after_rejected(trace, answer, choices_of(trace, timelines)))
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
        there = await self._replays.ready(wait_s)
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
            answer=thinking.after(lead, replay.answer),
        )


def slow(trace: Trace, mode_opening: str, choices: Sequence[str] = (), *, answered: bool = True) -> Sample:
    """An accepted trace as the writer saw and wrote it; without `answered` its thinking alone is learned."""
    assert trace.engagement_id is not None
    lead = str(trace.provenance.sampling.get("answer_lead", ""))
    begun, body = thinking.split(trace.thinking, str(trace.provenance.sampling.get("opening", "")))
    opening = silent(begun, mode_opening)
    return Sample(
        kind="slow",
        user_id=trace.user_id,
        engagement_id=trace.engagement_id,
        trace_id=trace.id,
        prompt=trace.prompt + thinking.OPEN,
        opening=opening,
        recalled=begun.removeprefix(opening),
        thinking=body,
        closing=thinking.CLOSE + lead,
        answer=thinking.after(lead, trace.answer) if answered else "",
        choices=[thinking.after(lead, choice) for choice in choices],
    )


def after_rejected(trace: Trace, answer: str, choices: Sequence[str] = ()) -> Sample:
    """The real answer after a rejected trace, whose thinking is only read."""
    assert trace.engagement_id is not None
    lead = str(trace.provenance.sampling.get("answer_lead", ""))
    return Sample(
        kind="slow",
        user_id=trace.user_id,
        engagement_id=trace.engagement_id,
        trace_id=trace.id,
        prompt=trace.prompt + thinking.wrap(trace.thinking, lead),
        answer=thinking.after(lead, answer),
        choices=[thinking.after(lead, choice) for choice in choices],
    )


def choices_of(trace: Trace, timelines: Mapping[str, Timeline]) -> Sequence[str]:
    """What the user could have answered to the question that this trace is about; empty where it was an open one."""
    engagement = timelines[trace.user_id].by_id.get(str(trace.engagement_id))
    return engagement.choices or () if engagement else ()


def answering_traces(traces: Sequence[Trace], elsewhere: Set[tuple[str | None, str]]) -> set[str]:
    """Of each engagement the first of these traces, unless its answer is learned `elsewhere`.

    Brothers that end in the same step of the engine may all be accepted; an engagement whose
    answer was learned after each of them would count for more than the others.
    """
    first: dict[tuple[str | None, str], str] = {}
    for trace in traces:
        asked = (trace.user_id, str(trace.engagement_id))
        first[asked] = min(trace.id, first.get(asked, trace.id))
    return {id for asked, id in first.items() if asked not in elsewhere}


def asked_by(samples: Sequence[Sample]) -> set[tuple[str | None, str]]:
    """The users' engagements that these samples are of."""
    return {(sample.user_id, sample.engagement_id) for sample in samples}


def engagements_of(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The engagements, by user, that these samples are of."""
    return _by_user((sample, sample.engagement_id) for sample in samples)


def traces_of(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The traces, by user, that these samples are of."""
    return _by_user((sample, str(sample.trace_id)) for sample in samples)


def _by_user(named: Iterable[tuple[Sample, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for sample, name in named:
        assert sample.user_id is not None
        found.setdefault(sample.user_id, []).append(name)
    return found


def spread(there: Mapping[str, int], total: int) -> dict[str, int]:
    """How many to take of each, at most `total` in all and as evenly as can be: who has few leaves room for others."""
    taken = {}
    smallest_first = sorted(there.items(), key=lambda item: item[1])
    for place, (key, count) in enumerate(smallest_first):
        taken[key] = min(count, math.ceil(total / (len(there) - place)))
        total -= taken[key]
    return taken
