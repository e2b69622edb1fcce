"""A lease service on a store, with what it needs to hand out leases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from hypothesis import strategies as st

from builders import prompt_builder
from mindprint.types import Lease, LeaseRequest, Provenance, Sample, Trace
from mindprint_server.context import ServerContext
from mindprint_server.memory import MemoryService
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import Replay, Store, leases, new_id
from mindprint_server.training_data.leases import LeaseService
from mindprint_server.training_data.replay import ReplayBuffer
from mindprint_server.wiring import create_holdout
from samples import engagement
from scripted import Scripted

COUNTS = {"ann": 30, "ben": 50, "cat": 10}


HELD = {"ann": {"e027", "e028", "e029"}, "ben": {f"e{n:03d}" for n in range(45, 50)}}
"""A tenth of each, the newest; `cat` has too few for that."""


class Written:
    """Replays that are there at once, after a wait, or not yet."""

    total = 48

    def __init__(self, there: int = 48, delay_s: float = 0.0) -> None:
        self.there = [Replay(n, f"general {n}", f"thought {n}", f"answer {n}") for n in range(there)]
        self.delay_s = delay_s
        self.begun = 0
        self.waited: list[float] = []

    def ensure_started(self) -> None:
        self.begun += 1

    async def get(self, wait_s: float) -> Sequence[Replay]:
        self.waited.append(wait_s)
        await asyncio.sleep(min(wait_s, self.delay_s))
        return self.there


class Desk:
    def __init__(self, store: Store, replays: Written | None = None, **settings: Any) -> None:
        chosen: dict[str, Any] = {"max_model_len": 4096, "replay_share": 0, "cohort_min_traces": 10}
        self.settings = Settings.model_validate(chosen | settings)
        self.store = store
        self.replays = replays or Written()
        self.metrics = Metrics()
        engine = Scripted()
        ctx = ServerContext(self.settings, store, engine, self.metrics)
        memory = MemoryService(ctx)
        prompts = prompt_builder(self.settings, engine)
        questions = QuestionBuilder(ctx, memory=memory)
        ready = cast(ReplayBuffer, self.replays)
        self.desk = LeaseService(
            ctx,
            prompts=prompts,
            questions=questions,
            memory=memory,
            replays=ready,
            holdout=create_holdout(self.settings),
        )

    async def claim(self, adapter: str, **request: Any) -> Lease:
        lease = await self.desk.claim(LeaseRequest(owner="t", adapter=adapter, **request))
        assert lease is not None
        return lease

    def missing(self) -> float:
        return self.metrics.registry.get_sample_value("mindprint_replays_missing_total") or 0.0


async def fill(store: Store, traces: Mapping[str, int] = COUNTS) -> None:
    """Histories in which every user says who they are, and accepted traces of the first engagements of each."""
    for user, count in COUNTS.items():
        await store.engagements.add(
            user,
            [engagement(n).model_copy(update={"reason": f"because {user} said so"}) for n in range(count)],
        )
    for user, count in traces.items():
        for n in range(count):
            await store.traces.add(trace(user, f"e{n:03d}"))


def trace(user: str, engagement_id: str) -> Trace:
    return Trace(
        id=new_id(),
        user_id=user,
        engagement_id=engagement_id,
        mode="personal",
        query="q",
        prompt=f"the memory of {user}",
        thinking=f"{user} thinks",
        answer="yes",
        verdict="accepted",
        state="waiting",
        provenance=Provenance(
            model="base",
            adapter_digest=None,
            base_digest="b",
            prompt_version="1",
            mode="personal",
            sampling={"answer_prefix": "So:"},
            seed=1,
            engine="fake",
        ),
        created_at=datetime.now(UTC),
    )


def of(kind: str, lease: Lease) -> list[Sample]:
    return [sample for sample in lease.samples if sample.kind == kind]


def held(lease: Lease) -> dict[str, set[str]]:
    return {user: set(ids) for user, ids in lease.held_out.items()}


def sample_lead(sample: Sample) -> str:
    return "" if sample.kind == "fast" else " "


async def rejection(store: Store, engagement_id: str, reason: str) -> str:
    """A unhinted candidate of ann's that was rejected; its id."""
    no: dict[str, Any] = {"verdict": "rejected", "reason": reason, "state": "stored", "answer": "maybe"}
    one = trace("ann", engagement_id).model_copy(update=no)
    await store.traces.add(one)
    return one.id


def leased(adapter: str, *trace_ids: str) -> Lease:
    lease: Lease = cast(Any, Lease).model_construct(adapter=adapter, trace_ids=list(trace_ids))
    return lease


async def _trained(store: Store, lease: Lease) -> None:
    """Take the traces of a lease out of the queue, as a publication does."""

    async def mark(db: Any) -> None:
        await leases.mark_trained(db, lease.id, 1)
        await leases.end(db, lease.id, "completed", 1)

    await store._database.write(mark)


SIZED = st.lists(st.tuples(st.sampled_from(["ann", "ben"]), st.integers(0, 50)), max_size=30)
