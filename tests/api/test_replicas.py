"""Two servers on one database: what one publishes the other serves, and neither harms the other's versions."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from lives import KEY, Loader, answering, counted
from mindprint.types import Lease
from mindprint_server.adapters.artifact_owner import MARKER
from mindprint_server.app import create_app
from mindprint_server.exceptions import ArtifactUnavailable
from mindprint_server.store import ErasureTarget, LeaseRevoked, PublicationRecord, VersionRecord
from mindprint_server.wiring import Services
from replicas import replicas
from uploads import leased, published, upload


def http(services: Services) -> httpx.AsyncClient:
    app = create_app(services.settings, services=services)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def ask(services: Services, model: str) -> httpx.Response:
    async with http(services) as client:
        body = {"user_id": "ann", "query": "tea or coffee?", "model": model, "mode": "direct", "memory": "none"}
        return await client.post("/v1/traces", json=body)


async def state_of(services: Services, number: int) -> tuple[str, bool]:
    version = await services.store.versions.get(KEY, number)
    return version.state, version.files


async def test_what_one_server_publishes_the_other_serves(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2) as (first, second):
        await published(first, tmp_path)
        assert [await answering(one) for one in (first, second)] == ["user/ann@1"] * 2
        await published(second, tmp_path)
        assert [await answering(one) for one in (first, second)] == ["user/ann@2"] * 2
        await first.adapters.rollback(KEY)
        assert [await answering(one) for one in (first, second)] == ["user/ann@1"] * 2


async def test_files_in_an_object_store_are_fetched_by_the_other_server(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2, artifact_url=f"memory://{uuid4().hex}") as (first, second):
        await published(first, tmp_path)
        assert await answering(second) == "user/ann@1"
        assert counted(second, "artifact_fetches_total", outcome="fetched") == 1
        name = (await first.store.versions.get(KEY, 1)).artifact
        assert name is not None
        for services in (first, second):
            assert [path.name for path in (services.settings.data_dir / "adapters").iterdir()] == [name]


async def test_server_without_the_files_withdraws_nothing(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2, artifact_url=None, health_min_answers=2, artifact_retry_s=0.001) as (
        first,
        second,
    ):
        for _ in range(2):
            await published(first, tmp_path)
        # Each server keeps files in its own data folder here, so the second one has none.
        for _ in range(30):
            assert await answering(second) == "base"
        assert [await state_of(first, number) for number in (1, 2)] == [("standby", True), ("live", True)]
        assert await answering(first) == "user/ann@2"
        assert counted(second, "fallbacks_total", to="base") == 30
        assert counted(second, "adapter_answers_total", outcome="failed") == 0
        for number in (1, 2):
            reply = await ask(second, f"user/ann@{number}")
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "artifact_unavailable")
            assert int(reply.headers["retry-after"]) >= 1
        async with http(second) as client:
            reply = await client.post(f"/v1/adapters/{KEY}/promote", json={"version": 1})
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "artifact_unavailable")
        assert [await state_of(first, number) for number in (1, 2)] == [("standby", True), ("live", True)]


async def test_damaged_files_are_not_loaded_and_withdraw_nothing(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2, health_min_answers=1, artifact_retry_s=0.001) as (first, second):
        await published(first, tmp_path)
        name = (await first.store.versions.get(KEY, 1)).artifact
        assert name is not None
        weights = tmp_path / "shared" / name / "adapter_model.safetensors"
        await asyncio.to_thread(weights.write_bytes, weights.read_bytes()[:-1] + b"?")
        for _ in range(3):
            assert await answering(second) == "base"
        engine: Any = second.engine
        assert engine.loaded == {}
        assert counted(second, "artifact_fetches_total", outcome="damaged") == 3
        assert await state_of(second, 1) == ("live", True)


async def test_version_that_the_engine_refuses_is_withdrawn_only_with_whole_files(tmp_path: Path) -> None:
    async with replicas(tmp_path, 1, health_min_answers=1) as (services,):
        for _ in range(2):
            await published(services, tmp_path)
        await services.adapters.promote(KEY, 1)
        engine = services.engine
        assert isinstance(engine, Loader)
        engine.broken.add("user/ann@2")
        await services.store.live_versions.set_live(KEY, 2)
        assert await answering(services) == "base"
        assert await state_of(services, 2) == ("refused", True)
        assert await answering(services) == "user/ann@1"


async def test_starting_server_leaves_what_another_is_publishing(tmp_path: Path) -> None:
    async with replicas(tmp_path, 2) as (first, second):
        await published(first, tmp_path)
        gate: Any = first.publications._publisher._gate
        gate.held.clear()
        gate.seen.clear()
        lease = await leased(first)
        uploading = asyncio.create_task(upload(first, lease, tmp_path))
        try:
            while not gate.seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # The folder has no row yet. A start and an upkeep of another server come in between.
            await second.adapters._storage.collect()
        finally:
            gate.held.set()
        assert (await uploading).state == "live"
        assert [await answering(one) for one in (first, second)] == ["user/ann@2"] * 2


async def upload_without_a_row(
    services: Services, lease: Lease, folder: Path
) -> tuple[asyncio.Task[Any], asyncio.Event]:
    """An upload whose files are stored and whose row comes once the event is set."""
    add, stored, goes_on = services.store.publication_jobs.add, asyncio.Event(), asyncio.Event()

    async def late(lease_id: str, version: VersionRecord) -> PublicationRecord:
        stored.set()
        await goes_on.wait()
        return await add(lease_id, version)

    services.store.publication_jobs.add = late  # type: ignore[method-assign,assignment]
    uploading = asyncio.create_task(upload(services, lease, folder))
    await asyncio.wait_for(stored.wait(), 30)
    return uploading, goes_on


@pytest.mark.parametrize("is_remote", [False, True])
async def test_upload_whose_row_comes_while_another_server_collects_keeps_its_files(
    is_remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of any age count as orphans here. They were removed, and the version failed for want of them."""
    changes: dict[str, Any] = {"artifact_min_orphan_age_s": 0.0}
    if is_remote:
        changes["artifact_url"] = f"memory://{uuid4().hex}"
    async with replicas(tmp_path, 2, **changes) as (first, second):
        await published(first, tmp_path)
        uploading, goes_on = await upload_without_a_row(first, await leased(first), tmp_path)
        await second.adapters._storage.collect()
        # The row comes between the last look at the rows and the removal.
        usual = second.store.versions.list_artifacts

        async def then_publish() -> set[str]:
            named = await usual()
            goes_on.set()
            await uploading
            return named

        monkeypatch.setattr(second.store.versions, "list_artifacts", then_publish)
        await second.adapters._storage.collect()
        assert (await uploading).state == "live"
        for services in (first, second):
            await services.adapters.residency.keep_only(KEY, [])
            assert await answering(services) == "user/ann@2"


@pytest.mark.parametrize("is_remote", [False, True])
async def test_erasure_removes_the_files_of_an_upload_under_way_at_another_server(
    is_remote: bool, tmp_path: Path
) -> None:
    url = f"memory://{uuid4().hex}"
    async with replicas(tmp_path, 2, **({"artifact_url": url} if is_remote else {})) as (first, second):
        await published(first, tmp_path)
        uploading, goes_on = await upload_without_a_row(first, await leased(first), tmp_path)
        erasure = await second.erasures.request(ErasureTarget(kind="user", user_id="ann"))
        await second.erasures.run_open()
        assert (await second.store.erasures.get(erasure.id)).state == "done"
        assert await second.adapters._storage._artifacts.list_manifests(()) == {}
        goes_on.set()
        with pytest.raises(LeaseRevoked):
            await uploading
        for services in (first, second):
            await services.erasures.refresh()
            assert await services.adapters._storage._artifacts.list_manifests(()) == {}


def link(path: Path, *, to: Path) -> None:
    """Make a link, or let it lead elsewhere in one step: a probe makes a missing folder anew."""
    new = path.with_name("new link")
    new.symlink_to(to)
    new.replace(path)


async def test_upload_is_refused_while_the_artifact_store_is_away(tmp_path: Path) -> None:
    folder, no_folder = tmp_path / "folder", tmp_path / "no folder"
    folder.mkdir()
    no_folder.write_text("not a folder")
    link(tmp_path / "shared", to=folder)
    changes = {"artifact_probe_interval_s": 0.01, "artifact_retry_s": 0.001}
    async with replicas(tmp_path, 1, **changes) as (services,):
        await published(services, tmp_path)
        lease = await leased(services)
        await asyncio.to_thread(link, tmp_path / "shared", to=no_folder)
        async with http(services) as client, asyncio.timeout(20):
            while (reply := await client.get("/readyz")).status_code != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert list(reply.json()["reasons"]) == ["artifacts"]
            reply = await client.post(f"/v1/leases/{lease.id}/complete", files={"manifest": (None, "{}")})
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "artifact_unavailable")
            assert reply.headers["retry-after"]
            assert await answering(services) == "user/ann@1", "it is in the engine already"
            await asyncio.to_thread(link, tmp_path / "shared", to=folder)
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await upload(services, lease, tmp_path)).state == "live"


async def test_artifacts_of_one_database_are_safe_from_the_servers_of_another(tmp_path: Path) -> None:
    changes = {
        "artifact_url": str(tmp_path / "artifacts"),
        "artifact_min_orphan_age_s": 0.0,
        "artifact_probe_interval_s": 0.01,
    }
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    async with replicas(tmp_path / "one", 1, **changes) as (services,):
        await published(services, tmp_path)
        async with replicas(tmp_path / "other", 1, **changes) as (other,), http(other) as client, asyncio.timeout(20):
            while (reply := await client.get("/readyz")).status_code != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert "it belongs to another database" in reply.json()["reasons"]["artifacts"]
            with pytest.raises(ArtifactUnavailable, match="it belongs to another database"):
                await published(other, tmp_path)
            with pytest.raises(ArtifactUnavailable, match="it belongs to another database"):
                await other.adapters._storage.collect()
        await services.adapters._storage.collect()
        await services.adapters.residency.keep_only(KEY, [])
        assert await answering(services) == "user/ann@1"


async def test_names_that_differ_only_in_case_share_no_path(tmp_path: Path) -> None:
    async with replicas(tmp_path, 1) as (services,):
        for name in ("Case", "case"):
            await published(services, tmp_path, f"user/{name}")
        paths = [str(path.relative_to(tmp_path)) for path in (tmp_path / "shared").rglob("*") if path.name != MARKER]
        assert len({path.lower() for path in paths}) == len(paths) == 8
        assert not [path for path in paths if "case" in path.lower()]
        assert [await answering(services, f"user/{name}") for name in ("Case", "case")] == [
            "user/Case@1",
            "user/case@1",
        ]


async def test_files_that_vanish_after_their_first_use_withdraw_nothing(tmp_path: Path) -> None:
    async with replicas(tmp_path, 1, health_min_answers=1, artifact_retry_s=0.001) as (services,):
        await published(services, tmp_path)
        assert await answering(services) == "user/ann@1"
        await services.adapters.residency.keep_only(KEY, [])
        shared, away = tmp_path / "shared", tmp_path / "away"
        await asyncio.to_thread(shared.rename, away)
        for _ in range(2):
            assert await answering(services) == "base"
        assert await state_of(services, 1) == ("live", True)
        await asyncio.to_thread(shutil.rmtree, shared, ignore_errors=True)
        await asyncio.to_thread(away.rename, shared)
        assert await answering(services) == "user/ann@1"
