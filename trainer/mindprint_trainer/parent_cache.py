"""The versions that trainings start from: fetched once, checked by digest, a few kept."""

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

    def __init__(self, client: MindprintClient, folder: Path, keep: int) -> None:
        self._client, self._folder, self._keep = client, folder, keep

    def get(self, start: Start) -> peft_io.ParentAdapter:
        """Raises MindprintError or OSError when it cannot be had, TrainerError when it is not what its digest says."""
        folder = self._folder / start.digest.rpartition(":")[2]
        if not folder.exists():
            self._client.adapters.download(start.adapter, start.version, folder)
        try:
            parent = peft_io.read_parent(folder, start)
        except TrainerError:
            shutil.rmtree(folder, ignore_errors=True)  # it is fetched again another time
            raise
        os.utime(folder)
        self._forget()
        return parent

    def _forget(self) -> None:
        """Removes those whose last use is longest ago."""
        with contextlib.suppress(FileNotFoundError):  # another trainer may tidy up too
            held = sorted(self._folder.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
            for folder in held[self._keep :]:
                shutil.rmtree(folder, ignore_errors=True)
