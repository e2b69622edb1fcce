"""Single traces, and what happens to requests when a new version goes live."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_runs import fill, leased, second_version, upload
from mindprint.types import TraceRequest
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.exceptions import Invalid, ServerError
from mindprint_server.settings import Settings
from mindprint_server.store.exceptions import LeaseLost, PublicationConflict, RecordNotFound
from mindprint_server.wiring import Services, close_services, open_services

# --- one trace now ---


async def test_one_trace_about_an_engagement_is_judged_and_queued(services: Services) -> None:
    await fill(services)
    for seed in range(20):
        trace = await services.traces.create(TraceRequest(user_id="ann", engagement_id="e004", seed=seed))
        assert trace.state == ("waiting" if trace.verdict == "accepted" else "stored")
        assert (await services.store.traces.get(trace.id)).thinking == trace.thinking


@pytest.mark.parametrize("mode", ["direct", "generic"])
async def test_other_modes_are_never_queued(services: Services, mode: str) -> None:
    await fill(services)
    request = TraceRequest.model_validate({"user_id": "ann", "engagement_id": "e004", "mode": mode})
    assert (await services.traces.create(request)).state == "stored"


async def test_a_query_of_the_callers_is_only_answered(services: Services) -> None:
    await fill(services)
    request = TraceRequest(user_id="ann", query="And now?", choices=["yes", "no"], target="no", mode="direct")
    trace = await services.traces.create(request)
    assert trace.choice_logprobs is not None
    assert trace.scores["target_logprob"] == trace.choice_logprobs["no"]
    with pytest.raises(RecordNotFound):
        await services.store.traces.get(trace.id)


async def test_one_trace_that_cannot_be_written(services: Services) -> None:
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


async def test_lease_has_slow_and_fast_samples(services: Services) -> None:
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


async def test_an_upload_goes_live(services: Services, tmp_path: Path) -> None:
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


async def test_the_same_upload_again_is_the_same_version(services: Services, tmp_path: Path) -> None:
    lease = await leased(services)
    first = await upload(services, lease, tmp_path)
    again = await upload(services, lease, tmp_path)
    assert again.version == first.version
    with pytest.raises(PublicationConflict):
        await upload(services, lease, tmp_path, mark=1)


async def test_version_that_fails_parity_is_refused_and_traces_wait_again(services: Services, tmp_path: Path) -> None:
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


async def test_an_upload_without_its_lease_leaves_nothing(services: Services, tmp_path: Path) -> None:
    lease = await leased(services)
    await services.store.leases.release(lease.id)
    with pytest.raises(LeaseLost):
        await upload(services, lease, tmp_path)
    assert list((services.settings.data_dir / "adapters").glob("*/*/*")) == []


async def test_a_running_request_finishes_on_its_version(services: Services, tmp_path: Path) -> None:
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


async def test_roll_back_and_promote(services: Services, tmp_path: Path) -> None:
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
    services = await open_services(settings, engine=FakeEngine(model_path=base_folder))
    await upload(services, await leased(services), tmp_path)
    young = settings.data_dir / "artifacts" / ("0" * 64)
    young.mkdir()
    await close_services(services)
    services = await open_services(settings, engine=FakeEngine(model_path=base_folder))
    assert young.exists(), "another server may be publishing it"
    async with services.adapters.acquire("user/ann") as adapter:
        assert adapter is not None
        assert (adapter.path / "adapter_model.safetensors").exists()
    await close_services(services)
