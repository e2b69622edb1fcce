"""Batches, leases, uploads and the switch, on the fake engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from batch_runs import Broken, Slow, fill, finished
from mindprint.types import BatchRequest, TraceRequest
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import Invalid, LimitExceeded, ServerError
from mindprint_server.settings import Settings
from mindprint_server.store.exceptions import RecordNotFound
from mindprint_server.wiring import Services, close_services, open_services
from samples import engagement

# --- batches ---


async def test_a_batch_attempts_every_engagement_once(services: Services) -> None:
    await fill(services)
    services.settings.early_stop_margin_nats = services.settings.early_stop_score_margin = None
    batch = await finished(services, BatchRequest())
    assert (batch.state, batch.items, batch.done) == ("done", 12, 12)
    assert batch.skipped == {"no_history": 1}
    traces = await services.store.traces.find(batch=batch.id)
    funnel = batch.funnel
    assert funnel.attempted == 11
    assert funnel.generated == len(traces) == funnel.accepted + sum(funnel.rejected.values())
    assert funnel.accepted == sum(t.verdict == "accepted" for t in traces) > 0
    per_engagement = Counter(t.engagement_id for t in traces)
    assert all(count <= services.settings.candidates for count in per_engagement.values())
    done = {t.engagement_id for t in traces if t.verdict == "accepted"}
    for engagement_id, count in per_engagement.items():
        assert engagement_id in done or count == services.settings.candidates
    assert all(t.provenance.model == "base" for t in traces)
    assert batch.hinted == sum(t.verdict == "accepted" and t.provenance.saw_answer for t in traces)


async def test_the_answer_may_be_shown_from_the_first_candidate_on(services: Services) -> None:
    await fill(services)
    batch = await finished(services, BatchRequest(unhinted=0))
    traces = await services.store.traces.find(batch=batch.id)
    assert traces
    assert all(trace.provenance.saw_answer for trace in traces)
    assert batch.hinted == batch.funnel.accepted > 0


async def test_a_server_without_hints_shows_no_answer_from_the_first_candidate_on(services: Services) -> None:
    await fill(services)
    services.settings.hints = False
    with pytest.raises(ServerError) as error:
        await services.batches.submit(BatchRequest(unhinted=0))
    assert (type(error.value), error.value.code, error.value.param) == (Invalid, "validation_error", "unhinted")
    batch = await finished(services, BatchRequest(unhinted=0, hints=True))
    assert batch.hinted == batch.funnel.accepted > 0


@pytest.mark.parametrize("recall", ["recency", "bm25"])
async def test_memory_is_never_later_than_the_query(settings: Settings, base_folder: Path, recall: str) -> None:
    settings = settings.model_copy(update={"recall": recall})
    services = await open_services(settings, engine=FakeEngine(model_path=base_folder))
    try:
        await fill(services, count=20)
        await finished(services, BatchRequest())
        traces = await services.store.traces.find(limit=500)
    finally:
        await close_services(services)
    assert traces
    for trace in traces:
        number = int(str(trace.engagement_id)[1:])
        seen = [n for n in range(20) if f"walk number {n}?" in trace.prompt.rsplit("[user]", 1)[0]]
        if recall == "recency":
            window = settings.recency_k + number % settings.recency_step
            assert seen == list(range(max(0, number - window), number))
        else:
            assert len(seen) == min(number, settings.recency_k)
            assert max(seen) < number
        assert (trace.provenance.profile_version is None) == (number < 5)


async def test_a_second_batch_attempts_only_what_has_no_accepted_trace(services: Services) -> None:
    await fill(services)
    first = await finished(services, BatchRequest())
    second = await finished(services, BatchRequest(seed=1))
    assert second.items == 12 - len(
        {t.engagement_id for t in await services.store.traces.find(batch=first.id, verdict="accepted")}
    )


async def test_what_cannot_be_attempted_is_counted(services: Services) -> None:
    alike = engagement(2, choices=["<|end|>yes", "yes"])
    long = engagement(3).model_copy(update={"prompt": "word " * 5000})
    await services.store.engagements.add("bob", [engagement(0), alike, long])
    batch = await finished(services, BatchRequest(users=["bob"], candidates=1))
    assert batch.skipped == {"no_history": 1, "choices_alike": 1, "prompt_too_long": 1}


async def test_a_user_without_engagements_plans_nothing(services: Services) -> None:
    with pytest.raises(RecordNotFound):
        await services.batches.submit(BatchRequest(users=["nobody"]))
    batch = await finished(services, BatchRequest())
    assert (batch.state, batch.items) == ("done", 0)


async def test_a_full_backlog_is_left_alone(settings: Settings, base_folder: Path) -> None:
    few = settings.model_copy(update={"max_backlog": 3, "batch_max_in_flight": 1})
    services = await open_services(few, engine=FakeEngine(model_path=base_folder))
    await fill(services)
    batch = await finished(services, BatchRequest())
    assert batch.funnel.accepted == 3
    assert batch.skipped["backlog_full"] > 0
    await close_services(services)


async def test_requests_above_the_limit_are_refused(settings: Settings, base_folder: Path) -> None:
    services = await open_services(
        settings.model_copy(update={"max_interactive": 2, "max_waiting_interactive": 0}), engine=Slow(base_folder)
    )
    await fill(services)
    request = TraceRequest(user_id="ann", query="?", choices=["yes", "no"])
    results = await asyncio.gather(*(services.traces.create(request) for _ in range(3)), return_exceptions=True)
    [busy] = [result for result in results if isinstance(result, ServerError)]
    assert (type(busy), busy.code, busy.retry_after) == (LimitExceeded, "server_busy", settings.retry_after_s)
    assert (await services.traces.create(request)).answer in ("yes", "no")
    await close_services(services)


async def test_trace_that_takes_too_long_times_out(settings: Settings, base_folder: Path) -> None:
    services = await open_services(settings.model_copy(update={"request_timeout_s": 0.01}), engine=Slow(base_folder))
    await fill(services)
    with pytest.raises(TimeoutError):
        await services.traces.create(TraceRequest(user_id="ann", query="?", choices=["yes", "no"]))
    await close_services(services)


async def test_a_batch_goes_on_after_a_restart(settings: Settings, base_folder: Path) -> None:
    settings = settings.model_copy(update={"batch_max_in_flight": 2, "holdout_share": 0})
    services = await open_services(settings, engine=Slow(base_folder))
    await fill(services, count=20)
    batch, _ = await services.batches.submit(BatchRequest())
    async for state in services.batches.watch(batch.id):
        if state.done >= 5:
            break
    await close_services(services)

    services = await open_services(settings, engine=Slow(base_folder))
    before = await services.store.batches.get(batch.id)
    assert before.state == "running"
    assert 5 <= before.done < 20
    async for state in services.batches.watch(before.id):
        batch = state
    assert (batch.state, batch.done) == ("done", 20)
    per_engagement = Counter(t.engagement_id for t in await services.store.traces.find(batch=batch.id, limit=500))
    assert max(per_engagement.values()) <= settings.candidates
    await close_services(services)


async def test_a_cancelled_batch_stops_and_the_next_one_runs(settings: Settings, base_folder: Path) -> None:
    services = await open_services(settings.model_copy(update={"batch_max_in_flight": 1}), engine=Slow(base_folder))
    await fill(services)
    first, _ = await services.batches.submit(BatchRequest(seed=1))
    await asyncio.sleep(0.1)
    assert (await services.batches.cancel(first.id)).state == "cancelled"
    second = await finished(services, BatchRequest(seed=2))
    assert second.state == "done"
    assert (await services.store.batches.get(first.id)).state == "cancelled"
    await close_services(services)


async def test_a_batch_that_breaks_says_why_and_blocks_nobody(settings: Settings, base_folder: Path) -> None:
    services = await open_services(settings, engine=Broken(model_path=base_folder))
    await fill(services)
    batch = await finished(services, BatchRequest())
    assert batch.state == "failed"
    assert batch.error == "RuntimeError: no luck"
    assert (await finished(services, BatchRequest(temperature=0.0))).state == "done"
    await close_services(services)
