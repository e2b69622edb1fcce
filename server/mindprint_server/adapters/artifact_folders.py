"""Artifacts on disk: the files of one version in one folder that is named by their digest.

A folder is written under a temporary name and renamed, so that it is whole or not there. It is never changed. Its name
holds no user's name, so names that differ only in case cannot meet on a disk that ignores case.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from mindprint.private_files import make_private, make_private_folder
from mindprint_server.adapters.artifact_owner import MARKER, check_claim, check_marker, is_owned
from mindprint_server.operation.disk import full_disk_refused

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"
FILES = (MANIFEST, CONFIG, WEIGHTS)
"""Names of the files of an artifact, in the order in which they are written.

The manifest is first. So it says whose the weights are, also if the writer is killed.
"""
NEW, PARTIAL = ".new-", ".part"
"""Beginning of the name of a folder that an upload is written into; end of the names of all that is not finished."""
DIGEST_CHARS = 64


def artifact_digest(engine_id: int, sha256: Mapping[str, str]) -> str:
    """Return the SHA-256 hex that names an artifact.

    It covers `engine_id`, which is never used twice. So each version has an artifact of its own, and removing one never
    removes the files of another.

    Args:
        engine_id: The version's id in the engine.
        sha256: SHA-256 hex of each of `FILES`, by name.
    """
    text = json.dumps({"engine_id": engine_id, "files": dict(sha256)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_digest(name: str) -> bool:
    """Return whether a name can be that of an artifact."""
    return len(name) == DIGEST_CHARS and set(name) <= set("0123456789abcdef")


class ArtifactFolders:
    """Writes, verifies and removes the folders of artifacts. Every method reads or writes disk: call it in a thread.

    Args:
        root: The folder that holds them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, digest: str) -> Path:
        """Return the folder of an artifact, whether or not it exists."""
        return self.root / digest

    def ping(self, database_id: str) -> bool:
        """Check that folders can be written, and return whether they are this database's. False: they are nobody's.

        Raises:
            OSError: They cannot.
            NotOwned: They are another one's.
        """
        if not self.root.is_dir():
            make_private_folder(self.root)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{self.root} cannot be written")
        return is_owned(self._read_marker, database_id)

    def claim(self, database_id: str, named: Collection[str]) -> None:
        """Take folders that are nobody's.

        Args:
            database_id: Id of the database.
            named: Digests that it names.

        Raises:
            NotOwned: They are not this database's.
        """
        check_claim(database_id, stored=self.list_ages(), named=named)
        self._mark(self.root / MARKER, database_id)
        check_marker(self._read_marker(), database_id)

    def _read_marker(self) -> str:
        return (self.root / MARKER).read_text(encoding="utf-8")

    def _mark(self, marker: Path, database_id: str) -> None:
        """Write the marker whole, unless another server has written one meanwhile."""
        text = f"{database_id}\n"
        partial = self.root / f".{uuid4().hex}{PARTIAL}"
        try:
            with full_disk_refused(), suppress(FileExistsError):
                partial.write_text(text, encoding="utf-8")
                make_private(partial)
                _publish(partial, marker, text)
        finally:
            partial.unlink(missing_ok=True)

    def write(self, engine_id: int, *, weights: Path, config: bytes, manifest: str) -> str:
        """Write an artifact, durably and in one step, and return its digest.

        Args:
            engine_id: The version's id in the engine.
            weights: The safetensors file; it is moved.
            config: Content of adapter_config.json.
            manifest: Content of manifest.json.

        Raises:
            StorageFull: The disk is full. Nothing remains of the folder.
        """

        def fill(folder: Path) -> None:
            (folder / MANIFEST).write_text(manifest, encoding="utf-8")
            (folder / CONFIG).write_bytes(config)
            shutil.move(weights, folder / WEIGHTS)

        return self.add(engine_id, fill)

    def add(self, engine_id: int, fill: Callable[[Path], None], *, digest: str | None = None) -> str:
        """Add a folder that `fill` puts the files into.

        Args:
            engine_id: The version's id in the engine.
            fill: Gets an empty folder and puts `FILES` into it.
            digest: The digest that the files must have; None takes any.

        Returns:
            The digest of the files.

        Raises:
            DigestMismatch: The files are other ones. Nothing of them remains.
            StorageFull: The disk is full. Nothing remains of the folder.
        """
        begin = NEW if digest is None else _unfinished(digest)
        partial = self.root / f"{begin}{uuid4().hex}{PARTIAL}"
        try:
            with full_disk_refused():
                make_private_folder(partial)
                fill(partial)
                found = artifact_digest(engine_id, _hash_files(partial))
                if digest is not None and found != digest:
                    raise DigestMismatch(digest, found)
                _make_durable(partial)
            self._rename(partial, self.path(found))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return found

    def verify(self, digest: str, engine_id: int) -> None:
        """Check that the folder of an artifact holds what its name says.

        Raises:
            FileNotFoundError: The folder or one of its files is missing.
            DigestMismatch: The files are other ones.
        """
        found = artifact_digest(engine_id, _hash_files(self.path(digest)))
        if found != digest:
            raise DigestMismatch(digest, found)

    def size(self, digest: str) -> int:
        """Return the size of an artifact in bytes; 0 if it is missing."""
        try:
            return sum(file.stat().st_size for file in self.path(digest).iterdir())
        except FileNotFoundError:
            return 0

    def remove(self, digest: str) -> None:
        """Remove the folder of an artifact, if it exists, and what a crash left of its removal.

        Raises:
            OSError: Something of it cannot be removed.
        """
        # Renamed first: another process must find a whole folder or none.
        with suppress(FileNotFoundError):
            self.path(digest).rename(self.root / f"{_unfinished(digest)}{uuid4().hex}{PARTIAL}")
        for gone in list(self.root.glob(f"{_unfinished(digest)}*{PARTIAL}")):
            _remove_folder(gone)

    def remove_new(self, name: str) -> None:
        """Remove a folder that an upload is written into. The upload then fails.

        Raises:
            OSError: Something of it cannot be removed.
        """
        _remove_folder(self.root / name)

    def list_manifests(self, named: Collection[str]) -> dict[str, str]:
        """Return manifests, by name of the folder: of artifacts that are not named, and of uploads that are written.

        Args:
            named: Digests that are left out.
        """
        found = {}
        for folder in list(self.root.iterdir()) if self.root.is_dir() else ():
            if (is_digest(folder.name) and folder.name not in named) or folder.name.startswith(NEW):
                with suppress(FileNotFoundError):
                    found[folder.name] = (folder / MANIFEST).read_text(encoding="utf-8", errors="replace")
        return found

    def list_ages(self) -> dict[str, float]:
        """Return the age of each artifact in seconds, by digest, the oldest first."""
        return dict(sorted(self._ages(is_digest), key=lambda one: one[1], reverse=True))

    def remove_partial(self, min_age_s: float) -> None:
        """Remove what a crash left of folders and markers that were being written or removed, if it is so old."""
        for name, age_s in list(self._ages(lambda name: name.startswith(".") and name.endswith(PARTIAL))):
            if age_s >= min_age_s:
                _remove(self.root / name)

    def _ages(self, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, float]]:
        now = time.time()
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            try:
                if is_wanted(folder.name):
                    yield folder.name, now - folder.stat().st_mtime
            except FileNotFoundError:  # another server removed it
                continue

    def _rename(self, partial: Path, final: Path) -> None:
        try:
            partial.rename(final)
        except OSError:
            # The same artifact is there already: its name says that it holds the same files.
            if not final.is_dir():
                raise
            shutil.rmtree(partial, ignore_errors=True)
        _fsync(self.root)


class DigestMismatch(Exception):
    """Files are not those that their digest names."""

    def __init__(self, wanted: str, found: str) -> None:
        super().__init__(f"the files have digest {found[:12]}…, not {wanted[:12]}…")


def _publish(partial: Path, final: Path, text: str) -> None:
    """Give a whole file its name, unless that is taken.

    Raises:
        FileExistsError: The name is taken.
    """
    try:
        final.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:
        # exFAT, many SMB shares and FUSE file systems have no hard links.
        with final.open("x", encoding="utf-8") as file:
            file.write(text)
        make_private(final)


def _unfinished(digest: str) -> str:
    """Return how the names of the folders begin in which an artifact is fetched or removed."""
    return f".{digest}-"


def _remove_folder(folder: Path) -> None:
    while folder.exists():
        # Another server may remove the same folder.
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _hash_files(folder: Path) -> dict[str, str]:
    hashes = {}
    for name in FILES:
        with (folder / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _make_durable(folder: Path) -> None:
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
