"""A writer whose thinking_prefixes recall what the user did in similar cases, on a fake engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindprint.types import BatchRequest, TraceRequest
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.engine.types import FinishReason
from mindprint_server.settings import Settings
from samples import engagement
from scripted import Scripted, serving


@pytest.fixture
def reminded(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"reminder_engagements": 1, "min_gain": None, "min_anchor": None, "early_stop_margin_nats": None}
    )


async def test_thinking_begins_with_the_most_similar_case(reminded: Settings, base_folder: Path) -> None:
    lake = engagement(1).model_copy(update={"prompt": "A walk by the lake?"})
    tax = engagement(2).model_copy(update={"prompt": "Shall we do the tax forms?"})
    async with serving(reminded, FakeEngine(model_path=base_folder)) as services:
        await services.store.engagements.add("ann", [lake, tax])
        ask = TraceRequest(user_id="ann", query="Another lake to walk by?", choices=["yes", "no"])
        trace = await services.traces.create(ask)
        assert f'shown: asked "A walk by the lake?", this user answered "{lake.response}". So' in trace.thinking
        assert "tax" not in trace.thinking.partition(". So")[0]
        assert str(trace.provenance.sampling["thinking_prefix"]).endswith(". So")
        bare = await services.traces.create(ask.model_copy(update={"thinking_prefix": ""}))
        assert "asked" not in bare.thinking
        generic = await services.traces.create(ask.model_copy(update={"mode": "generic"}))
        assert "asked" not in generic.thinking


async def test_batches_write_such_thinking_and_never_recall_the_engagement_itself(
    reminded: Settings, base_folder: Path
) -> None:
    events = [engagement(n).model_copy(update={"prompt": f"A walk by lake {n}?"}) for n in range(6)]
    async with serving(reminded, FakeEngine(model_path=base_folder)) as services:
        await services.store.engagements.add("ann", events)
        batch, _ = await services.batches.submit(BatchRequest(seed=1))
        async for state in services.batches.watch(batch.id):
            assert state.state != "failed", state.error
        traces = await services.store.traces.find(user="ann", limit=100)
        assert traces
        by_id = {event.id: event for event in events}
        for trace in traces:
            told = trace.thinking.partition(". So")[0]
            assert "asked" in told
            assert by_id[str(trace.engagement_id)].prompt not in told


async def test_learned_prefix_does_not_count_after_the_bare_think(reminded: Settings, base_folder: Path) -> None:
    async def thinks(prompt: str, sampling: Any) -> tuple[str, FinishReason]:
        return "What this user has shown: yes it is", "stop"

    async with serving(reminded, Scripted(thinks=thinks)) as services:
        await services.store.engagements.add("ann", [engagement(1)])
        ask = TraceRequest(user_id="ann", query="A walk?", choices=["yes", "no"], thinking_prefix="")
        assert (await services.traces.create(ask)).reason == "empty"
