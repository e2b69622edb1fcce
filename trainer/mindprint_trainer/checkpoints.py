"""Checkpoints on disk, so that a killed training continues and ends with the same weights, bit by bit.

A checkpoint belongs to a task: adapter, samples, start and recipe. It does not belong to a lease, so that the next
lease of the same traces continues from it. Other samples or settings have another checkpoint. A checkpoint is written
to a temporary file and renamed, so that it is always complete.

The key of a task contains the names of settings. After an upgrade that renames one, older checkpoints are not found:
the training begins again, and `remove_stale` deletes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from mindprint.private_files import FILE, make_private_folder
from mindprint.types import Lease
from mindprint_trainer.settings import Settings

FORMAT = 1
SUFFIX = ".checkpoint"
FAILED = ".failed"
"""Suffix of a checkpoint whose training failed. It is kept for inspection and never loaded."""


def task_key(lease: Lease, settings: Settings) -> str:
    """Return a hex digest of everything that decides the training, except the number of tries."""
    task = {
        "format": FORMAT,
        "adapter": lease.adapter,
        "base": lease.base_digest,
        "start": lease.start.digest if lease.start else None,
        "limits": lease.limits.model_dump(mode="json"),
        "samples": [sample.model_dump(mode="json") for sample in lease.samples],
        "recipe": settings.recipe() | {"target_modules": settings.target_modules},
    }
    return hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoint of one task in a folder, and the count of its failures."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    @property
    def path(self) -> Path:
        """Return the file of the checkpoint, which may not exist."""
        return self._folder / f"{self._key}{SUFFIX}"

    @property
    def failures(self) -> int:
        """Count how often this task failed in this folder."""
        return len(list(self._folder.glob(f"{self._key}.*{FAILED}")))

    def load(self) -> dict[str, Any] | None:
        """Load the last saved state. None when there is none that can be read; a damaged file is deleted."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # A damaged file makes torch raise many kinds of errors.
            self.drop()
            return None
        return state if state.get("format") == FORMAT else None

    def save(self, state: dict[str, Any]) -> None:
        """Save a state and replace the previous one.

        Raises:
            OSError: The disk is full, for instance. The previous checkpoint is still there.
        """
        make_private_folder(self._folder)
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            part.touch(FILE)
            with part.open("wb") as stream:
                torch.save(state | {"format": FORMAT}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self.path)
        except RuntimeError as error:  # torch raises it in place of the operating system's error.
            raise OSError(str(error)) from error
        finally:
            part.unlink(missing_ok=True)

    def drop(self) -> None:
        """Delete the checkpoint, because the task is done or refused. Another try starts from the beginning."""
        self.path.unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Rename the checkpoint so that it is not loaded again, and count a failure.

        Returns:
            The new path; None if there was no checkpoint. The failure is counted in both cases.
        """
        aside = self._folder / f"{self._key}.{self.failures}{FAILED}"
        try:
            self.path.replace(aside)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                make_private_folder(self._folder)
                aside.touch(FILE)
            return None
        return aside


def remove_stale(folder: Path, max_age_s: float) -> None:
    """Delete the checkpoints in a folder that are older than `max_age_s` seconds."""
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # Another trainer may delete it first.
            if file.suffix in (SUFFIX, FAILED, ".part") and time.time() - file.stat().st_mtime > max_age_s:
                file.unlink()
