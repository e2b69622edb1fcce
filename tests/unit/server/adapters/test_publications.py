"""Jobs of publications: tries, waits, restarts, and how they end without a version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from lives import KEY, Gate, Open, counted, folders, lives
from mindprint.types import LeaseRequest
from mindprint_server.adapters.publications import in_turn
from mindprint_server.engine import AdapterRef, EngineDied
from mindprint_server.exceptions import Conflict, Invalid
from mindprint_server.settings import Settings
from mindprint_server.store import ClaimPolicy, LeaseLost, OpenPublication, PublicationRecord, RecordNotFound
from mindprint_server.store.tables import publications
from mindprint_server.wiring import Services
from uploads import ended, leased, published, upload

AT_ONCE = {"publication_retry_min_s": 0.001, "publication_retry_max_s": 0.001, "publication_poll_s": 0.01}
"""A publication that failed is tried again at once."""


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def serve(settings: Settings, base_folder: Path, gate: Gate) -> AsyncIterator[Open]:
    async with lives(settings, base_folder, gate) as open:
        yield open


async def left_at_the_gate(services: Services, gate: Gate, tmp_path: Path) -> PublicationRecord:
    """A job that a server begins and leaves, as if it were killed."""
    lease = await leased(services)
    gate.held.clear()
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not gate.seen:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    uploading.cancel()
    await services.publications.stop()
    gate.held.set()
    job = await services.store.publication_jobs.find_of_lease(lease.id)
    assert job is not None
    return job


async def test_publication_that_fails_each_time_is_given_up_and_its_traces_wait_again(
    serve: Open, gate: Gate, tmp_path: Path
) -> None:
    services = await serve(max_publication_tries=3, **AT_ONCE)
    lease = await leased(services)
    gate.error = RuntimeError("no luck")
    with pytest.raises(Conflict, match="failed 3 times, the last time with: RuntimeError") as error:
        await upload(services, lease, tmp_path)
    assert error.value.code == "publication_failed"
    assert len(gate.seen) == 3
    assert await folders(services) == []
    assert services.adapters.residency.loaded() == []
    with pytest.raises(RecordNotFound):
        await services.store.adapters.get(KEY)
    assert (await services.store.leases.get(lease.id)).state == "released"
    again = await leased(services)
    assert (again.attempt, set(lease.trace_ids) < set(again.trace_ids)) == (2, True)


async def test_publication_that_fails_waits_elsewhere_and_leaves_the_server_ready(
    serve: Open, gate: Gate, tmp_path: Path
) -> None:
    services = await serve(max_cpu_loras=1, max_failing_s=0, retry_min_s=0.001, publication_retry_min_s=3600,
                           publication_retry_max_s=3600, publication_poll_s=0.01)  # fmt: skip
    lease = await leased(services)
    gate.error = RuntimeError("no luck")
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not counted(services, "task_failures_total", task="publication", reason="RuntimeError"):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    gate.error = None
    assert (await published(services, tmp_path, "user/bob")).state == "live", "its place was free"
    assert services.readiness.problems() == {}
    job = await services.store.publication_jobs.find_of_lease(lease.id)
    assert job is not None
    assert (job.state, job.tries) == ("gate", 1)
    jobs, now = services.store.publication_jobs, datetime.now(UTC)
    half_an_hour, an_hour = now + timedelta(minutes=29), now + timedelta(minutes=61)
    assert await jobs.list_claimable(now=half_an_hour) == []
    assert [one.id for one in await jobs.list_claimable(now=an_hour)] == [job.id], "any server goes on then"
    uploading.cancel()


async def test_publication_goes_on_after_an_error_that_passes(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve(**AT_ONCE)
    lease = await leased(services)
    gate.error = RuntimeError("no luck")
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while len(gate.seen) < 2:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    gate.error = None
    version = await uploading
    assert (version.version, version.state) == (1, "live")
    assert await folders(services) == [1]


async def test_lease_holds_without_a_heartbeat_until_its_publication_ends(
    serve: Open, gate: Gate, tmp_path: Path
) -> None:
    services = await serve()
    lease = await leased(services)
    gate.held.clear()
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not gate.seen:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    in_a_day = datetime.now(UTC) + timedelta(days=1)
    request, policy = LeaseRequest(owner="other", adapter=KEY), ClaimPolicy(max_attempts=3)
    assert await services.store.leases.claim(request, policy, now=in_a_day) is None
    with pytest.raises(LeaseLost, match="its upload is being checked"):
        await services.store.leases.release(lease.id)
    assert (await services.store.leases.get(lease.id)).state == "active"
    gate.held.set()
    assert (await uploading).state == "live"


async def test_steps_of_a_publication_are_visible(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve()
    lease = await leased(services)
    gate.held.clear()
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not gate.seen:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    job = await services.store.publication_jobs.find_of_lease(lease.id)
    assert job is not None
    seen = await services.publications.get(job.id)
    assert (seen.state, list(seen.steps), seen.result) == (
        "gate",
        ["stored", "loading", "parity_check", "gate"],
        None,
    )
    gate.held.set()
    version = await uploading
    seen = await services.publications.get(job.id)
    assert (seen.state, seen.result, seen.tries) == ("published", version, 1)
    assert seen.finished_at is not None


async def test_slot_that_does_not_come_free_is_waited_for_and_costs_no_try(serve: Open, tmp_path: Path) -> None:
    services = await serve(max_cpu_loras=1, adapter_wait_s=0.02, publication_poll_s=0.01, max_publication_tries=1)
    await published(services, tmp_path, "user/bob")
    lease = await leased(services)
    async with services.adapters.acquire("user/bob"):
        uploading = asyncio.create_task(upload(services, lease, tmp_path))
        while counted(services, "task_failures_total", task="publication", reason="adapters_busy") < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert not uploading.done()
    assert (await uploading).state == "live"
    job = await services.store.publication_jobs.find_of_lease(lease.id)
    assert job is not None
    assert job.tries == 1


async def test_upload_whose_stored_files_cannot_be_read_goes_on_once_they_can(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve(publication_poll_s=0.01, max_publication_tries=1)
    lease, load, failures = await leased(services), services.engine.load, 3

    async def fail(adapter: AdapterRef) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("input/output error")
        await load(adapter)

    monkeypatch.setattr(services.engine, "load", fail)
    assert (await upload(services, lease, tmp_path)).version == 1
    assert await folders(services) == [1]


async def test_publication_that_takes_too_long_is_given_up(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve(max_publication_s=0.2)
    lease = await leased(services)
    gate.held.clear()
    with pytest.raises(Conflict, match=r"longer than 0\.2 s: train again, or raise max_publication_s") as error:
        await upload(services, lease, tmp_path)
    assert error.value.code == "publication_too_slow"
    assert (await services.store.leases.get(lease.id)).state == "released"
    assert (await services.store.traces.get(lease.trace_ids[0])).state == "waiting"
    assert services.adapters.residency.loaded() == []
    assert await folders(services) == []


async def test_publication_that_a_killed_server_left_is_finished_by_the_next(
    serve: Open, gate: Gate, tmp_path: Path
) -> None:
    services = await serve()
    job = await left_at_the_gate(services, gate, tmp_path)
    assert job.state == "gate"
    services.publications.start()
    assert (await ended(services, job.id)).state == "live"
    assert (await services.store.publication_jobs.get(job.id)).tries == 2


async def test_death_of_the_engine_costs_one_try(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve(max_publication_tries=2)
    lease = await leased(services)
    gate.error = EngineDied("the engine process ended")
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not gate.seen or services.publications._running:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    job = await services.store.publication_jobs.find_of_lease(lease.id)
    assert job is not None
    assert (job.state, job.tries, len(gate.seen)) == ("gate", 1, 1)
    gate.error = None
    await services.publications.stop()
    await services.store.publication_jobs.give_back(services.publications.owner)
    services.publications.start()
    assert (await uploading).state == "live"


async def test_publication_that_waits_leaves_its_place_to_others(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve(max_cpu_loras=1, publication_poll_s=0.05)
    lease, load = await leased(services), services.engine.load

    async def fail(adapter: AdapterRef) -> None:
        if adapter.key == KEY:
            raise OSError("input/output error")
        await load(adapter)

    monkeypatch.setattr(services.engine, "load", fail)
    waiting = asyncio.create_task(upload(services, lease, tmp_path))
    while not services.publications._waits:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    assert (await published(services, tmp_path, "user/bob")).state == "live"
    assert not waiting.done()
    monkeypatch.undo()
    assert (await waiting).state == "live"


async def test_publication_without_files_is_given_up_at_once(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve()
    lease = await leased(services)
    gate.held.clear()
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not gate.seen:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    await services.publications.stop()

    async def forget_files(db: AsyncConnection) -> None:
        await db.execute(update(publications).values(artifact=None))

    await services.store._database.write(forget_files)
    services.publications.start()
    with pytest.raises(Conflict, match="its files are gone") as error:
        await uploading
    assert error.value.code == "publication_failed"
    assert (await services.store.leases.get(lease.id)).state == "released"


async def test_heartbeat_stops_no_work_on_a_job_that_no_server_holds(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve()
    lease = await leased(services)
    gate.held.clear()
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not gate.seen:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    jobs, job = services.store.publication_jobs, await services.store.publication_jobs.find_of_lease(lease.id)
    assert job is not None
    assert await jobs.extend("another", [job.id], ttl_s=9) == {job.id}
    await jobs.give_back(services.publications.owner, job.id)
    assert await jobs.extend("another", [job.id], ttl_s=9) == set()
    assert await jobs.claim(job.id, services.publications.owner, ttl_s=9) is not None
    gate.held.set()
    assert (await uploading).state == "live"


async def test_publication_that_a_server_of_another_base_model_finds_is_refused(
    serve: Open, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve()
    job = await left_at_the_gate(services, gate, tmp_path)
    other = replace(services.engine.info(), base_digest="sha256:other")
    monkeypatch.setattr(services.engine, "info", lambda: other)
    services.publications.start()
    with pytest.raises(Invalid, match="another base model than the one served now") as error:
        await ended(services, job.id)
    assert error.value.code == "adapter_base_model"
    assert (await services.store.leases.get(job.lease_id)).state == "released"
    assert len(gate.seen) == 1
    version = await services.store.versions.get(KEY, 1)
    assert (version.state, [(check.name, check.passed) for check in version.checks]) == (
        "refused",
        [("base_model", False)],
    )


def test_tenants_take_turns_and_those_that_run_something_wait() -> None:
    jobs = [OpenPublication(tenant, id) for tenant, id in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "4"), ("c", "5"))]
    assert [job.id for job in in_turn(jobs, {})] == ["1", "4", "5", "2", "3"]
    assert [job.id for job in in_turn(jobs, {"a": 2, "c": 1})] == ["4", "5", "1", "2", "3"]
