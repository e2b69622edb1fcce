"""Folders of versions as older releases wrote them, named by adapter and number; their files move to the artifacts."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from mindprint_server.adapters.artifact_folders import FILES, WEIGHTS
from mindprint_server.store import VersionRecord

KINDS = ("user", "cohort")


class OldFolders:
    """Reads and removes `<root>/<kind>/<name>/<version>/`. Every method reads or writes disk: call it in a thread.

    Args:
        root: The folder `adapters` of the data folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, key: str, version: int) -> Path:
        """Return the folder of a version, whether or not it exists."""
        return self._root / key / f"{version:06d}"

    def has(self, version: VersionRecord) -> bool:
        """Return whether a version has such a folder here."""
        return self.path(version.adapter, version.version).is_dir()

    def is_whole(self, version: VersionRecord) -> bool:
        """Return whether the folder holds all files, and the weights of the version."""
        folder = self.path(version.adapter, version.version)
        if not all((folder / name).is_file() for name in FILES):
            return False
        with (folder / WEIGHTS).open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == version.digest

    def filler(self, version: VersionRecord) -> Callable[[Path], None]:
        """Return a function that puts the files into another folder, without a copy where the disk allows it."""
        source = self.path(version.adapter, version.version)

        def fill(folder: Path) -> None:
            for name in FILES:
                try:
                    os.link(source / name, folder / name)
                except OSError:  # another disk, or one without hard links
                    shutil.copyfile(source / name, folder / name)

        return fill

    def remove(self, version: VersionRecord) -> None:
        """Remove the folder of a version, and the folders above it that are empty then."""
        self._remove(self.path(version.adapter, version.version))

    def remove_unknown(self, known: Collection[tuple[str, int]], min_age_s: float) -> None:
        """Remove folders of other versions than these, if they are so old.

        Args:
            known: Adapter key and number of each version whose files are here.
            min_age_s: Minimum age in seconds.
        """
        keep = {self.path(key, version) for key, version in known}
        before = time.time() - min_age_s
        for kind in KINDS:
            for folder in list((self._root / kind).glob("*/*")):
                with suppress(FileNotFoundError):  # Another server may remove it first.
                    if folder not in keep and folder.is_dir() and folder.stat().st_mtime < before:
                        self._remove(folder)

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, folder.parent.parent):
            try:
                parent.rmdir()
            except OSError:  # it holds other versions
                return
