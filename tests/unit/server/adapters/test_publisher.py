"""Uploads become versions, or are refused with reasons."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lives import KEY, Gate, Loader, Open, answering, counted, folders, lives
from mindprint.types import Check
from mindprint_server.adapters.artifact_owner import MARKER
from mindprint_server.exceptions import Conflict, Invalid, ServerError
from mindprint_server.settings import Settings
from mindprint_server.store import PublicationConflict
from uploads import leased, published, upload

COLLAPSED = Check(name="collapse", value=0.41, bound=0.1, passed=False, detail="thinking looped")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def serve(settings: Settings, base_folder: Path, gate: Gate) -> AsyncIterator[Open]:
    async with lives(settings, base_folder, gate) as open:
        yield open


async def test_what_the_gate_finds_stays_with_the_version(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve()
    version = await published(services, tmp_path)
    assert [(check.name, check.passed) for check in version.checks] == [
        ("parity", True),
        ("score", True),
        ("general", None),
    ]
    await published(services, tmp_path)
    assert gate.seen == [("user/ann@1", None), ("user/ann@2", "user/ann@1")]
    assert (await services.store.versions.get(KEY, 2)).checks[1] == gate.checks[0]


async def test_parity_check_waits_for_interactive_requests(serve: Open, tmp_path: Path) -> None:
    services = await serve(parity_max_idle_wait_s=60)
    async with services.publications._publisher._admission.enter():
        coming = asyncio.create_task(published(services, tmp_path))
        async with asyncio.timeout(30):
            while services.adapters.residency.loaded() != ["user/ann@1"]:  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not coming.done()
    assert (await asyncio.wait_for(coming, 10)).state == "live"


async def test_parity_check_waits_for_a_bounded_time(serve: Open, tmp_path: Path) -> None:
    services = await serve(parity_max_idle_wait_s=0.01)
    async with services.publications._publisher._admission.enter():
        assert (await asyncio.wait_for(published(services, tmp_path), 10)).state == "live"


async def test_a_version_that_fails_is_kept_and_never_served_unless_promoted(
    serve: Open, gate: Gate, tmp_path: Path
) -> None:
    services = await serve()
    gate.checks = [COLLAPSED, *gate.checks]
    lease = await leased(services)
    with pytest.raises(ServerError) as error:
        await upload(services, lease, tmp_path)
    assert (type(error.value), error.value.code) == (Invalid, "gate_failed")
    assert "collapse 0.41, bound 0.1 (thinking looped)" in error.value.message
    assert "score" not in error.value.message
    version = await services.store.versions.get(KEY, 1)
    assert (version.state, version.files) == ("refused", True)
    assert COLLAPSED in version.checks
    assert await folders(services) == [1]
    assert await answering(services) == "base"
    assert services.adapters.residency.loaded() == []
    assert counted(services, "gate_refusals_total", check="collapse") == 1
    assert counted(services, "adapters_refused_total", reason="gate_failed") == 1
    with pytest.raises(ServerError, match="was refused"):
        await answering(services, "user/ann@1")

    assert (await services.adapters.promote(KEY, 1)).live == 1
    assert await answering(services) == "user/ann@1"


async def test_the_same_refused_upload_again_is_refused_alike(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve()
    gate.checks = [COLLAPSED]
    lease = await leased(services)
    messages = set()
    for _ in range(2):
        with pytest.raises(ServerError) as error:
            await upload(services, lease, tmp_path)
        messages.add(error.value.message)
    assert len(messages) == 1
    assert len(gate.seen) == 1
    with pytest.raises(PublicationConflict, match="other weights"):
        await upload(services, lease, tmp_path, mark=1)


async def test_the_same_upload_at_once_is_one_version(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve()
    lease = await leased(services)
    first, second = await asyncio.gather(*(upload(services, lease, tmp_path) for _ in range(2)))
    assert first == second
    assert len(gate.seen) == 1
    assert await folders(services) == [1]


async def test_engine_with_one_slot_evaluates_without_the_live_version(serve: Open, gate: Gate, tmp_path: Path) -> None:
    services = await serve(max_cpu_loras=1)
    for _ in range(2):
        await published(services, tmp_path)
    assert gate.seen[-1] == ("user/ann@2", None)
    assert await answering(services) == "user/ann@2"


async def test_many_uploads_at_once_share_few_places(serve: Open, tmp_path: Path) -> None:
    services = await serve(max_cpu_loras=2, adapter_max_starvation_s=0.05)
    names = [f"u{number}" for number in range(6)]
    async with asyncio.timeout(20):
        for _ in range(2):
            leases = [await leased(services, f"user/{name}") for name in names]
            await asyncio.gather(*(upload(services, lease, tmp_path) for lease in leases))
    assert {await answering(services, f"user/{name}") for name in names} == {f"user/{name}@2" for name in names}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"weights_sha256": "0" * 64}, "adapter_digest"),
        ({"base_digest": "sha256:other"}, "adapter_base_model"),
        ({"trace_ids": ["another"]}, "manifest_mismatch"),
        ({"adapter": "user/bob"}, "manifest_mismatch"),
    ],
)
async def test_a_manifest_that_lies_leaves_nothing(
    serve: Open, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    services = await serve()
    lease = await leased(services)
    with pytest.raises(ServerError) as error:
        await upload(services, lease, tmp_path, **changes)
    assert error.value.code == code
    assert await folders(services) == []
    assert (await upload(services, lease, tmp_path)).version == 1


async def test_upload_that_the_engine_refuses_ends_its_lease_as_a_failed_attempt(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    services.engine.broken.add("user/ann@1")  # type: ignore[attr-defined]
    lease = await leased(services)
    messages = set()
    for _ in range(2):  # A repeated upload has the result of the first one.
        with pytest.raises(Invalid) as error:
            await upload(services, lease, tmp_path, number=1)
        assert error.value.code == "adapter_load"
        messages.add(error.value.message)
    assert messages == {"the engine cannot load user/ann@1 (bad files): train its traces again"}
    version = await services.store.versions.get(KEY, 1)
    assert (version.state, [(check.name, check.passed) for check in version.checks]) == ("refused", [("load", False)])
    assert (await services.store.leases.get(lease.id)).state == "released"
    assert (await services.store.traces.get(lease.trace_ids[0])).state == "waiting"
    assert counted(services, "adapters_refused_total", reason="adapter_load") == 1
    assert services.adapters.residency.loaded() == []
    assert await answering(services) == "base"
    again = await leased(services)
    assert (again.attempt, set(lease.trace_ids) < set(again.trace_ids)) == (lease.attempt + 1, True)
    assert (await upload(services, again, tmp_path)).version == 2


async def test_upload_whose_files_vanish_is_no_refusal_of_the_version(serve: Open, tmp_path: Path) -> None:
    services = await serve(publication_poll_s=0.01, max_publication_s=1.0)
    engine = services.engine
    assert isinstance(engine, Loader)
    lease = await leased(services)
    engine.held.clear()
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    await engine.loading.wait()
    root = services.settings.data_dir / "artifacts"
    (folder,) = (path for path in root.iterdir() if path.name != MARKER)
    await asyncio.to_thread(shutil.rmtree, folder)
    engine.held.set()
    with pytest.raises(Conflict):
        await uploading
    assert await services.store.adapters.list_page() == []
    assert (await services.store.traces.get(lease.trace_ids[0])).state == "waiting"
    assert (await upload(services, await leased(services), tmp_path, number=2)).version == 2
