"""Orphans are removed when they are old and no version names them; folders of an older release are taken over."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import update

from lives import KEY, Gate, Open, answering, counted, folder_of, folders, lives
from mindprint_server.adapters.artifact_owner import MARKER
from mindprint_server.exceptions import Conflict
from mindprint_server.settings import Settings
from mindprint_server.store import FilesGone
from mindprint_server.store.tables import versions
from mindprint_server.wiring import Services
from uploads import leased, published, upload


@pytest.fixture
async def serve(settings: Settings, base_folder: Path) -> AsyncIterator[Open]:
    async with lives(settings, base_folder, Gate()) as open:
        yield open


def make_older(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder, (then, then))


async def artifacts(services: Services) -> set[str]:
    return {path.name for path in (services.settings.data_dir / "artifacts").iterdir() if path.name != MARKER}


async def test_only_old_files_without_a_version_are_removed(serve: Open, tmp_path: Path) -> None:
    services = await serve(artifact_min_orphan_age_s=1000)
    await published(services, tmp_path)
    (named,) = await artifacts(services)
    root = services.settings.data_dir / "artifacts"
    old, young = (root / (digit * 64) for digit in "01")
    for folder in (old, young):
        folder.mkdir()
    make_older(old, 2000)
    make_older(root / named, 2000)
    await services.adapters._storage.collect()
    assert await artifacts(services) == {named, young.name}


async def test_version_whose_row_comes_during_the_search_keeps_its_files(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve(artifact_min_orphan_age_s=0)
    await published(services, tmp_path)
    await services.adapters.residency.keep_only(KEY, [])
    usual, answers = services.store.versions.list_artifacts, [{"0" * 64}]

    async def late() -> set[str]:
        return answers.pop() if answers else await usual()

    monkeypatch.setattr(services.store.versions, "list_artifacts", late)
    await services.adapters._storage.collect()
    assert await folders(services) == [1]


async def test_server_with_a_new_database_removes_nothing(serve: Open, tmp_path: Path) -> None:
    services = await serve(artifact_min_orphan_age_s=0)
    await services.adapters._storage._artifacts.ping()
    orphan = services.settings.data_dir / "artifacts" / ("0" * 64)
    orphan.mkdir()
    await services.adapters._storage.collect()
    assert orphan.exists()
    await published(services, tmp_path)
    await services.adapters._storage.collect()
    assert not orphan.exists()


def orphan_of(services: Services, adapter: str, trace_ids: list[str]) -> Path:
    """What a server leaves that is killed before it stores the row of an upload."""
    folder = services.settings.data_dir / "artifacts" / uuid4().hex.ljust(64, "0")
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"adapter": adapter, "trace_ids": trace_ids}))
    return folder


async def test_orphan_whose_lease_has_ended_is_removed_whatever_its_age(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    await services.adapters._storage._artifacts.ping()
    lease = await leased(services)
    orphan = orphan_of(services, KEY, list(reversed(lease.trace_ids)))
    await services.adapters._storage.collect()
    assert orphan.exists(), "its row may come"
    await services.store.leases.release(lease.id)
    await services.adapters._storage.collect()
    assert not orphan.exists()
    assert counted(services, "artifacts_collected_total") == 1


async def test_old_orphan_stays_while_its_lease_is_active(serve: Open, tmp_path: Path) -> None:
    services = await serve(artifact_min_orphan_age_s=1000)
    await published(services, tmp_path)
    lease = await leased(services)
    orphan, other = orphan_of(services, KEY, lease.trace_ids), orphan_of(services, "user/bob", lease.trace_ids)
    for folder in (orphan, other):
        make_older(folder, 2000)
    await services.adapters._storage.collect()
    assert (orphan.exists(), other.exists()) == (True, False)


async def test_files_that_are_moved_from_an_older_release_are_no_orphans(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    await published(services, tmp_path)
    old = await as_before(services, 1)
    (old / "manifest.json").unlink()  # so that this server does not move it
    moved = orphan_of(services, KEY, ["a trace of a lease that has ended"])
    await services.adapters._storage.collect()
    assert moved.exists()


async def test_upload_that_failed_leaves_no_files(serve: Open, tmp_path: Path) -> None:
    services = await serve(max_publication_tries=1)
    gate = services.publications._publisher._gate
    assert isinstance(gate, Gate)
    gate.error = RuntimeError("no luck")
    with pytest.raises(Conflict):
        await upload(services, await leased(services), tmp_path)
    assert await artifacts(services) == set()


# --- an older release ---


async def as_before(services: Services, number: int) -> Path:
    """Put a version back into the folder where an older release kept it."""
    version = await services.store.versions.get(KEY, number)
    old = services.settings.data_dir / "adapters" / KEY / f"{number:06d}"
    await asyncio.to_thread(shutil.copytree, folder_of(services, version), old)
    await asyncio.to_thread(shutil.rmtree, folder_of(services, version))
    mine = versions.c.adapter == KEY, versions.c.version == number
    async with services.store._database.transaction() as db:
        await db.execute(update(versions).where(*mine).values(artifact=None))
    return old


async def test_old_folders_are_not_moved_into_the_store_of_another_database(serve: Open, tmp_path: Path) -> None:
    """They were moved before anybody looked whose the store was, and its owner removed them a day later."""
    services = await serve()
    await published(services, tmp_path)
    old = await as_before(services, 1)
    root = services.settings.data_dir / "artifacts"
    (root / MARKER).write_text("1" * 32)
    await services.adapters._storage.import_old_folders()
    assert old.exists()
    assert [path.name for path in root.iterdir()] == [MARKER]


@pytest.mark.parametrize("kind", ["folder", "memory"])
async def test_folders_of_an_older_release_are_taken_over_at_start(kind: str, serve: Open, tmp_path: Path) -> None:
    services = await serve()
    for _ in range(2):
        await published(services, tmp_path)
    old = [await as_before(services, number) for number in (1, 2)]
    before = (old[0] / "adapter_model.safetensors").read_bytes()
    await services.adapters.residency.keep_only(KEY, [])
    for lock in services.locks:
        lock.release()
    again = await serve(artifact_url=None if kind == "folder" else f"memory://{uuid4().hex}")
    assert await answering(again) == "user/ann@2"
    async with again.adapters.acquire("user/ann@1") as adapter:
        assert adapter is not None
        assert (adapter.path / "adapter_model.safetensors").read_bytes() == before
    assert not [path for path in old if path.exists()]
    assert not (again.settings.data_dir / "adapters" / "user").exists()
    digests = [(await again.store.versions.get(KEY, number)).artifact for number in (1, 2)]
    await again.adapters._storage.import_old_folders()
    assert [(await again.store.versions.get(KEY, number)).artifact for number in (1, 2)] == digests


async def test_old_folder_with_other_weights_is_left_alone_and_withdraws_nothing(serve: Open, tmp_path: Path) -> None:
    services = await serve(artifact_min_orphan_age_s=0, health_min_answers=1)
    await published(services, tmp_path)
    old = await as_before(services, 1)
    await services.adapters.residency.keep_only(KEY, [])
    (old / "adapter_model.safetensors").write_bytes(b"another user's")
    await services.adapters._storage.import_old_folders()
    assert await answering(services) == "base"
    assert (await services.store.versions.get(KEY, 1)).state == "live"
    assert old.exists()
    assert await artifacts(services) == set()


async def test_old_folders_of_no_version_are_removed_when_they_are_old(serve: Open, tmp_path: Path) -> None:
    services = await serve(artifact_min_orphan_age_s=1000)
    await published(services, tmp_path)
    known = await as_before(services, 1)
    old, young = known.with_name("000007"), known.with_name("000008")
    for folder in (old, young):
        folder.mkdir()
    make_older(old, 2000)
    make_older(known, 2000)
    (known / "manifest.json").unlink()
    make_older(known, 2000)
    await services.adapters._storage.collect()
    assert [path.exists() for path in (known, old, young)] == [True, False, True]


async def test_files_of_an_old_version_are_removed_by_retention(serve: Open, tmp_path: Path) -> None:
    services = await serve(keep_versions=1)
    for _ in range(2):
        await published(services, tmp_path)
    stored = await services.store.versions.get(KEY, 1)
    assert not stored.files
    assert not folder_of(services, stored).exists()
    with pytest.raises(FilesGone):
        await answering(services, "user/ann@1")
