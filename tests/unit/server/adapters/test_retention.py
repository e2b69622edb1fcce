"""Which versions keep their files and their places, and how one is taken away."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import zipfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from lives import KEY, Gate, Loader, Open, answering, folder_of, folders, lives
from mindprint_server.adapters.storage import read_chunks
from mindprint_server.exceptions import ArtifactUnavailable
from mindprint_server.settings import Settings
from mindprint_server.store import FilesGone
from uploads import leased, published


@pytest.fixture
async def serve(settings: Settings, base_folder: Path) -> AsyncIterator[Open]:
    async with lives(settings, base_folder, Gate()) as open:
        yield open


def copy_files(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        shutil.copy(file, folder)


async def test_only_the_newest_keep_their_files(serve: Open, tmp_path: Path) -> None:
    services = await serve(keep_versions=2)
    await published(services, tmp_path)
    await services.adapters.pin(KEY, 1, True)
    for _ in range(4):
        await published(services, tmp_path)
    assert await folders(services) == [1, 4, 5]
    versions = (await services.store.adapters.get(KEY)).versions
    assert [one.files for one in versions] == [True, False, False, True, True]
    for call in (
        answering(services, "user/ann@2"),
        services.adapters.promote(KEY, 2),
        services.adapters.set_canary(KEY, 2, 0.5),
        services.adapters.download(KEY, 2),
    ):
        with pytest.raises(FilesGone):
            await call
    assert await answering(services, "user/ann@1") == "user/ann@1"


async def test_what_is_being_used_keeps_its_files(serve: Open, tmp_path: Path) -> None:
    services = await serve(keep_versions=1)
    await published(services, tmp_path)
    async with services.adapters.acquire(KEY):
        await published(services, tmp_path)
        assert await folders(services) == [1, 2]
    await published(services, tmp_path)
    assert await folders(services) == [3]


async def test_a_crash_between_forgetting_and_removing_is_made_good_by_the_upkeep(serve: Open, tmp_path: Path) -> None:
    services = await serve(artifact_min_orphan_age_s=0)
    for _ in range(2):
        await published(services, tmp_path)
    assert await services.store.retention.mark_files_removed(KEY, 1)
    await services.adapters.residency.keep_only(KEY, [2])
    await services.adapters._storage.collect()
    assert await folders(services) == [2]


async def test_files_that_go_while_a_request_waits_send_it_to_the_newer_version(serve: Open, tmp_path: Path) -> None:
    services = await serve(max_cpu_loras=1)
    await published(services, tmp_path)
    await published(services, tmp_path, "user/bob")
    lease = await leased(services)
    life, engine = services.adapters, services.engine
    assert isinstance(engine, Loader)
    engine.loading.clear()
    engine.held.clear()
    asking = asyncio.create_task(answering(services))
    await engine.loading.wait()
    # Another replica publishes, and its retention knows nothing of this request.
    second, engine_id = await services.store.versions.allocate(KEY)
    stored = await services.store.versions.get(KEY, 1)
    source = folder_of(services, stored)
    digest = await life._storage._artifacts.add(engine_id, partial(copy_files, source))
    changes = {"version": second, "engine_id": engine_id, "artifact": digest}
    await services.store.publication.publish(lease.id, stored.model_copy(update=changes))
    assert await services.store.retention.mark_files_removed(KEY, 1)
    await life._storage.remove(stored)
    engine.held.set()
    assert await asking == "user/ann@2"


async def test_a_pinned_version_stays_in_the_engine(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    for _ in range(2):
        await published(services, tmp_path)
    await services.adapters.pin(KEY, 1, True)
    assert await answering(services, "user/ann@1") == "user/ann@1"
    assert services.adapters.residency.loaded() == ["user/ann@1", "user/ann@2"]
    assert (await services.adapters.pin(KEY, 1, False)).pinned is False
    assert services.adapters.residency.loaded() == ["user/ann@2"]


async def test_a_download_is_a_plain_folder(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    version = await published(services, tmp_path)
    file = await services.adapters.download(KEY, 1)
    content = b"".join([chunk async for chunk in read_chunks(file)])
    assert file.closed
    with zipfile.ZipFile(io.BytesIO(content)) as zip:
        files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json"]
        assert sorted(zip.namelist()) == files
        assert all(one.compress_type == zipfile.ZIP_STORED for one in zip.infolist())
        manifest = json.loads(zip.read("manifest.json"))
        assert f"sha256:{manifest['weights_sha256']}" == version.digest
        assert json.loads(zip.read("adapter_config.json"))["peft_type"] == "LORA"
    downloads = services.settings.data_dir / "downloads"
    assert list(downloads.iterdir()) == []


async def test_a_download_whose_files_vanish_is_this_servers_fault(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    await published(services, tmp_path)
    (folder_of(services, await services.store.versions.get(KEY, 1)) / "manifest.json").unlink()
    with pytest.raises(ArtifactUnavailable):
        await services.adapters.download(KEY, 1)
