"""Adapter versions on disk: one PEFT folder per version, archives for download, and retention.

The layout is `<data_dir>/adapters/<kind>/<name>/<version>/` with the weights, the configuration and the manifest. A
folder is written once and never changed. The store knows which versions have files; a folder without a row in the
store is an orphan, left by a crash, and is removed at the next start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import IO

import structlog

from mindprint.private_files import make_private, make_private_folder
from mindprint.types.keys import VersionRef
from mindprint_server.engine import AdapterRef
from mindprint_server.operation.disk import full_disk_refused
from mindprint_server.store import Store, VersionRecord

log = structlog.get_logger(__name__)
WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"
CHUNK_BYTES = 1 << 20


class AdapterStorage:
    """Writes, archives and removes the files of versions.

    Args:
        data_dir: The server's data folder.
        store: Knows which versions have files.
    """

    def __init__(self, data_dir: Path, *, store: Store) -> None:
        self._root = data_dir / "adapters"
        self._downloads = data_dir / "downloads"
        self._store = store

    def path(self, key: str, version: int) -> Path:
        """Return the folder of a version, whether or not it exists."""
        return (self._root / key / f"{version:06d}").absolute()

    def ref(self, version: VersionRecord) -> AdapterRef:
        """Return what the engine needs to load a version."""
        path = self.path(version.adapter, version.version)
        return AdapterRef(version.adapter, version.version, version.digest, version.engine_id, path)

    def write(self, key: str, version: int, *, weights: Path, config: bytes, manifest: str) -> Path:
        """Write the folder of a new version, durably and in one step.

        Args:
            key: Adapter key.
            version: Number of the version.
            weights: The uploaded safetensors file; it is moved.
            config: Content of adapter_config.json.
            manifest: Content of manifest.json.

        Raises:
            FileExistsError: The version has a folder already.
            StorageFull: The disk is full. Nothing remains of the folder.
        """
        final = self.path(key, version)
        if final.exists():
            raise FileExistsError(f"{VersionRef.of(key, version)} is there already")
        partial = final.with_name(f".{final.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with full_disk_refused():
                _write_files(partial, weights=weights, config=config, manifest=manifest)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(final)
        _fsync(final.parent)
        return final

    def remove(self, key: str, version: int) -> None:
        """Remove the folder of a version, if it exists."""
        shutil.rmtree(self.path(key, version), ignore_errors=True)

    def remove_orphans(self, known: Collection[tuple[str, int]]) -> int:
        """Remove partial folders and folders of unknown versions.

        Args:
            known: Adapter key and number of every version that has files.

        Returns:
            The number of folders removed.
        """
        keep = {self.path(key, version) for key, version in known}
        orphans = [folder for folder in self._root.glob("*/*/*") if folder.is_dir() and folder.absolute() not in keep]
        for folder in orphans:
            shutil.rmtree(folder)
        return len(orphans)

    def open_archive(self, key: str, version: int) -> IO[bytes]:
        """Pack the folder of a version into an uncompressed zip.

        Returns:
            The zip as an open temporary file without a name. Closing it deletes it.

        Raises:
            FileNotFoundError: The folder is incomplete or missing.
            StorageFull: The disk has no space for the zip.
        """
        folder = self.path(key, version)
        make_private_folder(self._downloads)
        file = tempfile.TemporaryFile(dir=self._downloads)  # noqa: SIM115 (`read_chunks` closes it)
        try:
            with full_disk_refused(), zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as zip:
                for name in (CONFIG, WEIGHTS, MANIFEST):
                    zip.write(folder / name, name)
        except BaseException:
            file.close()
            raise
        return file

    async def prune(self, key: str, *, keep: int, is_needed: Callable[[str, int], bool]) -> list[int]:
        """Remove the files of old versions of an adapter.

        The store is updated first: a crash in between leaves an orphan folder.

        Args:
            key: Adapter key.
            keep: Number of newest versions that keep their files.
            is_needed: Returns whether the engine needs a version. Its files are then kept until the next call.

        Returns:
            The numbers of the versions whose files were removed.
        """
        removed = []
        for version in await self._store.retention.list_prunable(key, keep):
            if is_needed(key, version):
                continue
            if await self._store.retention.mark_files_removed(key, version):
                await asyncio.to_thread(self.remove, key, version)
                removed.append(version)
        if removed:
            log.info("files of old versions were removed", adapter=key, versions=removed)
        return removed


async def read_chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield a whole file in chunks, read in a thread, and close it at the end."""
    try:
        file.seek(0)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()


def _write_files(folder: Path, *, weights: Path, config: bytes, manifest: str) -> None:
    make_private_folder(folder)
    shutil.move(weights, folder / WEIGHTS)
    (folder / CONFIG).write_bytes(config)
    (folder / MANIFEST).write_text(manifest, encoding="utf-8")
    for file in folder.iterdir():
        make_private(file)
        _fsync(file)
    _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
