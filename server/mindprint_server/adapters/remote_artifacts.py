"""Artifacts behind an fsspec URL: `s3://`, `gs://`, `az://`, and `memory://` for tests."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]

from mindprint_server.adapters.artifact_folders import FILES, MANIFEST, is_digest
from mindprint_server.adapters.artifact_owner import MARKER, check_claim, check_marker, is_owned

LOCAL = ("", "file", "local")


class ArtifactUrlError(Exception):
    """The setting `artifact_url` cannot be used."""


def local_folder(url: str) -> Path | None:
    """Return the folder that a URL names; None for any other kind of URL."""
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme not in LOCAL:
        return None
    return Path(url.removeprefix(f"{scheme}://")) if scheme else Path(url)


class RemoteArtifacts:
    """Puts and gets the files of artifacts. Every method waits for the network: call it in a thread.

    Nobody reads an artifact before the row of its version is stored, and that is after `put` has returned.

    Args:
        url: Where the artifacts are.
        options: Options of the fsspec file system.

    Raises:
        ArtifactUrlError: The URL or the options are unknown, or the library of this kind of URL is not installed.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        scheme = urlsplit(url).scheme
        try:
            # Cached listings would hide what other servers have written and removed.
            self._files, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except (ImportError, ValueError, TypeError) as error:
            raise ArtifactUrlError(f"cannot open artifact_url of kind {scheme}:// ({error}): correct it") from error
        self._root = str(path).rstrip("/")

    def ping(self, database_id: str) -> bool:
        """Read the marker, and return whether the store is this database's. False: it is nobody's.

        Raises:
            NotOwned: It is another database's.
        """
        return is_owned(self._read_marker, database_id)

    def claim(self, database_id: str, named: Collection[str]) -> None:
        """Take a store that is nobody's.

        Args:
            database_id: Id of the database.
            named: Digests that it names.

        Raises:
            ArtifactUrlError: The bucket or container does not exist.
            NotOwned: The store is not this database's.
        """
        check_claim(database_id, stored=self._list_digests(), named=named)
        try:
            self._files.pipe_file(self._marker, f"{database_id}\n".encode())
        except FileNotFoundError as error:
            raise ArtifactUrlError("its bucket does not exist: create it, or correct artifact_url") from error
        # Another database may have written its own at the same time.
        check_marker(self._read_marker(), database_id)

    def put(self, digest: str, folder: Path) -> None:
        """Store the files of an artifact.

        Args:
            digest: Its digest.
            folder: The folder that holds its files.
        """
        self._files.makedirs(self._path(digest), exist_ok=True)
        for name in FILES:
            self._files.put_file(str(folder / name), f"{self._path(digest)}/{name}")

    def get(self, digest: str, folder: Path) -> None:
        """Fetch the files of an artifact into an existing folder.

        Raises:
            FileNotFoundError: One of them is missing.
        """
        for name in FILES:
            self._files.get_file(f"{self._path(digest)}/{name}", str(folder / name))

    def remove(self, digest: str) -> None:
        """Remove the files of an artifact, if they exist."""
        try:
            self._files.rm(self._path(digest), recursive=True)
        except FileNotFoundError:
            return

    def list_manifests(self, named: Collection[str]) -> dict[str, str]:
        """Return the manifests of artifacts that are not named, by digest. Each is a request.

        Args:
            named: Digests that are left out.
        """
        found = {}
        for digest in self._list_digests():
            if digest not in named:
                with suppress(FileNotFoundError):
                    found[digest] = self._files.cat_file(f"{self._path(digest)}/{MANIFEST}").decode(errors="replace")
        return found

    def list_ages(self, skipped: Collection[str]) -> dict[str, float]:
        """Return the age of each artifact in seconds, by digest. Each age is a request for each file.

        Args:
            skipped: Digests whose age is not asked for.
        """
        ages = {digest: self._age_s(digest) for digest in self._list_digests() if digest not in skipped}
        return {digest: age_s for digest, age_s in ages.items() if age_s is not None}

    def _list_digests(self) -> list[str]:
        try:
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in paths)
        return [name for name in names if is_digest(name)]

    def _age_s(self, digest: str) -> float | None:
        """Return the seconds since the newest file of an artifact was written; None if it has none any more."""
        times = []
        # An upload that broke off has its first files only.
        for name in FILES:
            with suppress(FileNotFoundError):
                times.append(self._files.modified(f"{self._path(digest)}/{name}").timestamp())
        return time.time() - max(times) if times else None

    def _read_marker(self) -> str:
        return str(self._files.cat_file(self._marker).decode())

    @property
    def _marker(self) -> str:
        return f"{self._root}/{MARKER}"

    def _path(self, digest: str) -> str:
        return f"{self._root}/{digest}"
