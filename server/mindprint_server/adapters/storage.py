"""A version as one file to take away: a plain PEFT folder with its manifest, in a zip that nothing had to compress."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import IO

import structlog

from mindprint_server.adapters.residency import AdapterResidency
from mindprint_server.engine import AdapterRef
from mindprint_server.store import Store, VersionRecord

PIECE = 1 << 20


def pack(folder: Path, beside: Path) -> IO[bytes]:
    """The zip of a version's folder, as a file without a name in `beside`. Raises FileNotFoundError."""
    beside.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=beside)  # noqa: SIM115 (whoever sends it closes it)
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as zip:
            for name in (CONFIG, WEIGHTS, MANIFEST):
                zip.write(folder / name, name)
    except BaseException:
        file.close()
        raise
    return file


async def pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    """The whole file, read off the event loop; it is closed, and with that gone, at the end."""
    try:
        file.seek(0)
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
    finally:
        file.close()


WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"


class AdapterFiles:
    """`<root>/<kind>/<name>/<version>/`, a plain PEFT folder with the manifest beside the weights."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, key: str, version: int) -> Path:
        return (self._root / key / f"{version:06d}").absolute()

    def ref(self, version: VersionRecord) -> AdapterRef:
        """Return what the engine needs to load a version."""
        path = self.path(version.adapter, version.version)
        return AdapterRef(version.adapter, version.version, version.digest, version.engine_id, path)

    def write(self, key: str, version: int, *, weights: Path, config: bytes, manifest: str) -> Path:
        """Moves the uploaded weights in. Raises FileExistsError rather than touch a version that is there."""
        final = self.path(key, version)
        if final.exists():
            raise FileExistsError(f"{key}@{version} is there already")
        aside = final.with_name(f".{final.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        shutil.move(weights, aside / WEIGHTS)
        (aside / CONFIG).write_bytes(config)
        (aside / MANIFEST).write_text(manifest, encoding="utf-8")
        for file in aside.iterdir():
            _sync(file)
        _sync(aside)
        aside.rename(final)
        _sync(final.parent)
        return final

    def remove(self, key: str, version: int) -> None:
        shutil.rmtree(self.path(key, version), ignore_errors=True)

    def collect_orphans(self, known: Collection[tuple[str, int]]) -> int:
        """Removes what a crash left: half-written folders, and whole ones that no row speaks of. Returns how many."""
        keep = {self.path(key, version) for key, version in known}
        orphans = [folder for folder in self._root.glob("*/*/*") if folder.is_dir() and folder.absolute() not in keep]
        for folder in orphans:
            shutil.rmtree(folder)
        return len(orphans)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


log = structlog.get_logger(__name__)


async def prune(store: Store, files: AdapterFiles, residents: AdapterResidency, key: str, keep: int) -> list[int]:
    """Removes the files of versions that nothing needs, but for the newest `keep`. Returns their numbers.

    The store forgets them first: what a crash leaves in between is an orphan, and collected at the next start.
    """
    gone = []
    for number in await store.retention.list_prunable(key, keep):
        if residents.needs(key, number):
            continue  # at the next time
        if await store.retention.mark_files_removed(key, number):
            await asyncio.to_thread(files.remove, key, number)
            gone.append(number)
    if gone:
        log.info("files of old versions were removed", adapter=key, versions=gone)
    return gone
