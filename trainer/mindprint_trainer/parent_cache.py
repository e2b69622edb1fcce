"""Caches the versions that training runs start from: downloads each once and checks its digest."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from mindprint import MindprintClient
from mindprint.types import Start
from mindprint_trainer.errors import TrainerError
from mindprint_trainer.model import peft_io


class ParentCache:
    """A folder of PEFT folders, each named by the digest of its weights."""

    def __init__(self, client: MindprintClient, folder: Path, max_parents: int) -> None:
        """Open the cache; the folder need not exist.

        Args:
            client: Downloads what is missing.
            folder: Where the versions lie.
            max_parents: How many versions to keep; the least recently used are deleted.
        """
        self._client, self._folder, self._max_parents = client, folder, max_parents

    def get(self, start: Start) -> peft_io.ParentAdapter:
        """Return a version, downloaded if it is not in the folder.

        Raises:
            MindprintError: The download failed.
            OSError: The disk failed.
            TrainerError: The files have another digest. They are deleted, and downloaded again next time.
        """
        folder = self._folder / start.digest.rpartition(":")[2]
        if not folder.exists():
            self._client.adapters.download(start.adapter, start.version, folder)
        try:
            parent = peft_io.read_parent(folder, start)
        except TrainerError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        os.utime(folder)
        self._evict()
        return parent

    def drop(self, start: Start) -> None:
        """Delete a version: it learned from data that the server has erased."""
        shutil.rmtree(self._folder / start.digest.rpartition(":")[2], ignore_errors=True)

    def _evict(self) -> None:
        """Delete the least recently used versions over the limit."""
        with contextlib.suppress(FileNotFoundError):  # Another trainer may delete one first.
            by_use = sorted(self._folder.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
            for folder in by_use[self._max_parents :]:
                shutil.rmtree(folder, ignore_errors=True)
