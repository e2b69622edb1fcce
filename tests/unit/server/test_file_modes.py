"""What a server puts on disk is for its owner only, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindprint_server.api import multipart
from mindprint_server.settings import Settings
from samples import engagement
from scripted import Scripted, serving
from uploads import published


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def _odd_modes(folder: Path) -> dict[str, str]:
    """The paths that others may read or enter."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): oct(mode) for path in paths if (mode := path.stat().st_mode & 0o777) & 0o077}


async def test_data_folder_is_private(settings: Settings, base_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "mindprint.db").touch(0o644)
    changed = settings.model_copy(update={"data_dir": data, "database_url": None})
    async with serving(changed, Scripted(folder=base_folder)) as services:
        await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
        version = await published(services, tmp_path)
        (await services.adapters.download(version.adapter, version.version)).close()
        multipart._new_file(data / "uploads", 60)
        names = {path.name for path in data.rglob("*")}
        assert {"mindprint.db", "mindprint.db-wal", "adapter_model.safetensors", "uploads", "downloads"} <= names
        assert _odd_modes(data) == {}
