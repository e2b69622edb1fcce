"""Batches, leases, uploads and the switch, on the fake engine."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from mindprint.types import Batch, BatchRequest, Lease, LeaseRequest, Manifest, ParityItem, TraceRequest, Version
from mindprint_server.engine import AdapterRef, Priority, Sampling
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import Invalid, LimitExceeded, ServerError
from mindprint_server.settings import Settings
from mindprint_server.store.exceptions import LeaseLost, RecordNotFound
from mindprint_server.wiring import Container, close_container, open_container
from samples import engagement, write_tensors

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


async def fill(services: Container, user: str = "ann", count: int = 12) -> None:
    await services.store.engagements.add(user, [engagement(n) for n in range(count)])


async def finished(services: Container, request: BatchRequest) -> Batch:
    batch, _ = await services.batches.submit(request)
    async for state in services.batches.watch(batch.id):
        batch = state
    return batch


async def leased(services: Container, user: str = "ann") -> Lease:
    await fill(services, user)
    await finished(services, BatchRequest(users=[user]))
    lease = await services.leases.claim(LeaseRequest(owner="t", adapter=f"user/{user}"))
    assert lease is not None
    return lease


async def upload(services: Container, lease: Lease, folder: Path, *, mark: int = 0, honest: bool = True) -> Version:
    """What a trainer does: weights, config and a parity item that holds if `honest`."""
    weights = folder / f"upload-{lease.id}-{mark}"
    write_tensors(weights, {f"{LAYER}.lora_A.weight": (4 + mark, 8), f"{LAYER}.lora_B.weight": (8, 4 + mark)})
    prompt, target = services.engine.tokenizer.encode("a prompt"), services.engine.tokenizer.encode(" yes")
    # The fake engine's answer depends on the version's name, which is the next number.
    newest = max((v.version for a in await services.store.adapters.list_all() for v in a.versions), default=0)
    ref = AdapterRef(lease.adapter, newest + 1, "", 99, folder)

    async def logprobs(adapter: AdapterRef | None) -> list[float]:
        return await services.engine.next_logprobs(prompt, target, adapter=adapter, priority=Priority.PARITY_CHECK)

    ours, base = await logprobs(ref), await logprobs(None)
    item = ParityItem(
        prompt_ids=prompt,
        target_ids=target,
        logprobs=ours if honest else [value - 1 for value in ours],
        base_logprobs=base,
    )
    manifest = Manifest(
        adapter=lease.adapter,
        base_digest=lease.base_digest,
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        trace_ids=lease.trace_ids,
        samples={"slow": 1, "fast": 1},
        settings={},
        losses={},
        tokens=1,
        seconds=1,
        trainer="test",
        parity_items=[item],
    )
    config = json.dumps({"peft_type": "LORA", "r": 4 + mark, "lora_alpha": 8, "target_modules": ["q_proj"]}).encode()
    return await services.adapters.publish(lease.id, manifest, config, weights)


# --- batches ---


async def test_a_batch_attempts_every_engagement_once(services: Container) -> None:
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


async def test_the_answer_may_be_shown_from_the_first_candidate_on(services: Container) -> None:
    await fill(services)
    batch = await finished(services, BatchRequest(unhinted=0))
    traces = await services.store.traces.find(batch=batch.id)
    assert traces
    assert all(trace.provenance.saw_answer for trace in traces)
    assert batch.hinted == batch.funnel.accepted > 0


async def test_a_server_without_hints_shows_no_answer_from_the_first_candidate_on(services: Container) -> None:
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
    services = await open_container(settings, engine=FakeEngine(model_path=base_folder))
    try:
        await fill(services, count=20)
        await finished(services, BatchRequest())
        traces = await services.store.traces.find(limit=500)
    finally:
        await close_container(services)
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


async def test_a_second_batch_attempts_only_what_has_no_accepted_trace(services: Container) -> None:
    await fill(services)
    first = await finished(services, BatchRequest())
    second = await finished(services, BatchRequest(seed=1))
    assert second.items == 12 - len(
        {t.engagement_id for t in await services.store.traces.find(batch=first.id, verdict="accepted")}
    )


async def test_what_cannot_be_attempted_is_counted(services: Container) -> None:
    alike = engagement(2, choices=["<|end|>yes", "yes"])
    long = engagement(3).model_copy(update={"prompt": "word " * 5000})
    await services.store.engagements.add("bob", [engagement(0), alike, long])
    batch = await finished(services, BatchRequest(users=["bob"], candidates=1))
    assert batch.skipped == {"no_history": 1, "choices_alike": 1, "prompt_too_long": 1}


async def test_a_user_without_engagements_plans_nothing(services: Container) -> None:
    with pytest.raises(RecordNotFound):
        await services.batches.submit(BatchRequest(users=["nobody"]))
    batch = await finished(services, BatchRequest())
    assert (batch.state, batch.items) == ("done", 0)


async def test_a_full_backlog_is_left_alone(settings: Settings, base_folder: Path) -> None:
    few = settings.model_copy(update={"max_backlog": 3, "batch_max_in_flight": 1})
    services = await open_container(few, engine=FakeEngine(model_path=base_folder))
    await fill(services)
    batch = await finished(services, BatchRequest())
    assert batch.funnel.accepted == 3
    assert batch.skipped["backlog_full"] > 0
    await close_container(services)


async def test_requests_above_the_limit_are_refused(settings: Settings, base_folder: Path) -> None:
    services = await open_container(settings.model_copy(update={"max_interactive": 2}), engine=Slow(base_folder))
    await fill(services)
    request = TraceRequest(user_id="ann", query="?", choices=["yes", "no"])
    results = await asyncio.gather(*(services.traces.create(request) for _ in range(3)), return_exceptions=True)
    [busy] = [result for result in results if isinstance(result, ServerError)]
    assert (type(busy), busy.code, busy.retry_after) == (LimitExceeded, "server_busy", settings.retry_after_s)
    assert (await services.traces.create(request)).answer in ("yes", "no")
    await close_container(services)


async def test_trace_that_takes_too_long_times_out(settings: Settings, base_folder: Path) -> None:
    services = await open_container(settings.model_copy(update={"request_timeout_s": 0.01}), engine=Slow(base_folder))
    await fill(services)
    with pytest.raises(TimeoutError):
        await services.traces.create(TraceRequest(user_id="ann", query="?", choices=["yes", "no"]))
    await close_container(services)


class Slow(FakeEngine):
    def __init__(self, folder: Path) -> None:
        super().__init__(model_path=folder, delay_s=0.02)


async def test_a_batch_goes_on_after_a_restart(settings: Settings, base_folder: Path) -> None:
    settings = settings.model_copy(update={"batch_max_in_flight": 2, "holdout_share": 0})
    services = await open_container(settings, engine=Slow(base_folder))
    await fill(services, count=20)
    batch, _ = await services.batches.submit(BatchRequest())
    async for state in services.batches.watch(batch.id):
        if state.done >= 5:
            break
    await close_container(services)

    services = await open_container(settings, engine=Slow(base_folder))
    before = await services.store.batches.get(batch.id)
    assert before.state == "running"
    assert 5 <= before.done < 20
    async for state in services.batches.watch(before.id):
        batch = state
    assert (batch.state, batch.done) == ("done", 20)
    per_engagement = Counter(t.engagement_id for t in await services.store.traces.find(batch=batch.id, limit=500))
    assert max(per_engagement.values()) <= settings.candidates
    await close_container(services)


async def test_a_cancelled_batch_stops_and_the_next_one_runs(settings: Settings, base_folder: Path) -> None:
    services = await open_container(settings.model_copy(update={"batch_max_in_flight": 1}), engine=Slow(base_folder))
    await fill(services)
    first, _ = await services.batches.submit(BatchRequest(seed=1))
    await asyncio.sleep(0.1)
    assert (await services.batches.cancel(first.id)).state == "cancelled"
    second = await finished(services, BatchRequest(seed=2))
    assert second.state == "done"
    assert (await services.store.batches.get(first.id)).state == "cancelled"
    await close_container(services)


class Broken(FakeEngine):
    async def generate(self, prompt_ids, sampling: Sampling, *, adapter, priority):  # type: ignore[no-untyped-def]
        if sampling.temperature > 0:
            raise RuntimeError("no luck")
        return await super().generate(prompt_ids, sampling, adapter=adapter, priority=priority)


async def test_a_batch_that_breaks_says_why_and_blocks_nobody(settings: Settings, base_folder: Path) -> None:
    services = await open_container(settings, engine=Broken(model_path=base_folder))
    await fill(services)
    batch = await finished(services, BatchRequest())
    assert batch.state == "failed"
    assert batch.error == "RuntimeError: no luck"
    assert (await finished(services, BatchRequest(temperature=0.0))).state == "done"
    await close_container(services)


# --- one trace now ---


async def test_one_trace_about_an_engagement_is_judged_and_queued(services: Container) -> None:
    await fill(services)
    for seed in range(20):
        trace = await services.traces.create(TraceRequest(user_id="ann", engagement_id="e004", seed=seed))
        assert trace.state == ("waiting" if trace.verdict == "accepted" else "stored")
        assert (await services.store.traces.get(trace.id)).thinking == trace.thinking


@pytest.mark.parametrize("mode", ["direct", "generic"])
async def test_other_modes_are_never_queued(services: Container, mode: str) -> None:
    await fill(services)
    request = TraceRequest.model_validate({"user_id": "ann", "engagement_id": "e004", "mode": mode})
    assert (await services.traces.create(request)).state == "stored"


async def test_a_query_of_the_callers_is_only_answered(services: Container) -> None:
    await fill(services)
    request = TraceRequest(user_id="ann", query="And now?", choices=["yes", "no"], target="no", mode="direct")
    trace = await services.traces.create(request)
    assert trace.choice_logprobs is not None
    assert trace.scores["target_logprob"] == trace.choice_logprobs["no"]
    with pytest.raises(RecordNotFound):
        await services.store.traces.get(trace.id)


async def test_one_trace_that_cannot_be_written(services: Container) -> None:
    await fill(services)
    with pytest.raises(ServerError) as error:
        await services.traces.create(TraceRequest(user_id="ann", query="word " * 5000))
    assert (type(error.value), error.value.code) == (Invalid, "prompt_too_long")
    with pytest.raises(ServerError) as error:
        await services.traces.create(
            TraceRequest(user_id="ann", query="?", choices=["<|end|>yes", "yes"], mode="direct")
        )
    assert error.value.code == "choices_alike"


# --- leases, uploads, the switch ---


async def test_lease_has_slow_and_fast_samples(services: Container) -> None:
    lease = await leased(services)
    slow = [s for s in lease.samples if s.kind == "slow"]
    fast = [s for s in lease.samples if s.kind == "fast"]
    taught = [s for s in slow if s.trace_id in lease.trace_ids]
    assert [s.trace_id for s in taught] == lease.trace_ids
    assert len(fast) == 12
    assert all(s.prompt.endswith("<think>\n") and s.thinking_prefix == "What this user has shown:" for s in taught)
    assert all(s.thinking_suffix == "\n</think>\nThis user's answer:" for s in taught)
    assert not any(s.thinking for s in fast)
    answered = [s for s in slow if s.answer]
    assert len({s.engagement_id for s in answered}) == len(answered), "after one thinking about each"
    assert {s.engagement_id for s in answered} >= {s.engagement_id for s in taught}
    directly = {s.engagement_id: s for s in fast}
    assert all(s.answer == f" {directly[s.engagement_id].answer}" for s in answered)
    one = taught[0]
    assert one.prompt.splitlines()[:-3] == directly[one.engagement_id].prompt.splitlines()[:-2]


async def test_an_upload_goes_live(services: Container, tmp_path: Path) -> None:
    lease = await leased(services)
    version = await upload(services, lease, tmp_path)
    assert (version.state, version.version) == ("live", 1)
    assert version.parity is not None
    assert version.parity.passed
    traces = await services.store.traces.find(user="ann", state="trained")
    assert {t.id for t in traces} == set(lease.trace_ids)
    assert {t.version for t in traces} == {1}
    assert services.adapters.residency.loaded() == ["user/ann@1"]
    async with services.adapters.acquire("user/ann") as adapter:
        assert adapter is not None
        assert adapter.version == 1
    async with services.adapters.acquire("base") as adapter:
        assert adapter is None


async def test_the_same_upload_again_is_the_same_version(services: Container, tmp_path: Path) -> None:
    lease = await leased(services)
    first = await upload(services, lease, tmp_path)
    again = await upload(services, lease, tmp_path)
    assert again.version == first.version
    with pytest.raises(LeaseLost):
        await upload(services, lease, tmp_path, mark=1)


async def test_version_that_fails_parity_is_refused_and_traces_wait_again(services: Container, tmp_path: Path) -> None:
    lease = await leased(services)
    with pytest.raises(ServerError) as error:
        await upload(services, lease, tmp_path, honest=False)
    assert error.value.code == "parity_failed"
    assert (await services.store.versions.get("user/ann", 1)).state == "refused"
    assert (await services.store.live_versions.get("user/ann")).live is None
    assert services.adapters.residency.loaded() == []
    assert (await services.store.traces.count_waiting())["user/ann"] == len(lease.trace_ids)
    with pytest.raises(ServerError) as error:
        async with services.adapters.acquire("user/ann@1"):
            pass
    assert error.value.code == "version_refused"


async def test_an_upload_without_its_lease_leaves_nothing(services: Container, tmp_path: Path) -> None:
    lease = await leased(services)
    await services.store.leases.release(lease.id)
    with pytest.raises(LeaseLost):
        await upload(services, lease, tmp_path)
    assert list((services.settings.data_dir / "adapters").glob("*/*/*")) == []


async def second_version(services: Container, folder: Path) -> None:
    await services.store.engagements.add("ann", [engagement(n) for n in range(12, 24)])
    await finished(services, BatchRequest(seed=5))
    lease = await services.leases.claim(LeaseRequest(owner="t", adapter="user/ann"))
    assert lease is not None
    assert lease.parent == 1
    await upload(services, lease, folder, mark=1)


async def test_a_running_request_finishes_on_its_version(services: Container, tmp_path: Path) -> None:
    await upload(services, await leased(services), tmp_path)
    async with services.adapters.acquire("user/ann") as old:
        await second_version(services, tmp_path)
        assert old is not None
        assert old.version == 1
        assert services.adapters.residency.loaded() == ["user/ann@1", "user/ann@2"]
        async with services.adapters.acquire("user/ann") as new:
            assert new is not None
            assert new.version == 2
            assert new.engine_id != old.engine_id
    assert services.adapters.residency.loaded() == ["user/ann@2"]


async def test_roll_back_and_promote(services: Container, tmp_path: Path) -> None:
    await upload(services, await leased(services), tmp_path)
    await second_version(services, tmp_path)
    assert (await services.adapters.rollback("user/ann")).live == 1
    async with services.adapters.acquire("user/ann") as adapter:
        assert adapter is not None
        assert adapter.version == 1
    assert services.adapters.residency.loaded() == ["user/ann@1"]
    async with services.adapters.acquire("user/ann@2") as adapter:
        assert adapter is not None
        assert services.adapters.residency.loaded() == ["user/ann@1", "user/ann@2"]
    assert services.adapters.residency.loaded() == ["user/ann@1"]
    assert (await services.adapters.promote("user/ann", 2)).live == 2
    assert services.adapters.residency.loaded() == ["user/ann@2"]
    assert (await services.adapters.promote("user/ann", None)).live is None
    assert services.adapters.residency.loaded() == []


async def test_a_restart_serves_what_was_live(settings: Settings, base_folder: Path, tmp_path: Path) -> None:
    services = await open_container(settings, engine=FakeEngine(model_path=base_folder))
    await upload(services, await leased(services), tmp_path)
    orphan = settings.data_dir / "adapters" / "user" / "ann" / "000009"
    orphan.mkdir()
    await close_container(services)
    services = await open_container(settings, engine=FakeEngine(model_path=base_folder))
    assert not orphan.exists()
    async with services.adapters.acquire("user/ann") as adapter:
        assert adapter is not None
        assert (adapter.path / "adapter_model.safetensors").exists()
    await close_container(services)
