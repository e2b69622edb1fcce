"""Where trainings stand, on disk: so that a killed one goes on, to the same bits.

A checkpoint belongs to a task, that is to the adapter, the samples, the start and the recipe, not to a lease: whoever
leases the same traces after a crash goes on with it, and other samples never meet it. It appears by rename, whole.
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

from mindprint.types import Lease
from mindprint_trainer.settings import Settings

FORMAT = 1
SUFFIX = ".checkpoint"
FAILED = ".failed"
"""A checkpoint of a training that came to a bad end: kept to be looked at, never taken up again."""


def task_key(lease: Lease, settings: Settings) -> str:
    """Hex digest of all that decides the training, apart from the seed's shift."""
    said = {
        "format": FORMAT,
        "adapter": lease.adapter,
        "base": lease.base_digest,
        "start": lease.start.digest if lease.start else None,
        "limits": lease.limits.model_dump(mode="json"),
        "samples": [sample.model_dump(mode="json") for sample in lease.samples],
        "recipe": settings.recipe() | {"target_modules": settings.target_modules},
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class Checkpoints:
    """The checkpoint of one task in `folder`."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    @property
    def path(self) -> Path:
        return self._folder / f"{self._key}{SUFFIX}"

    @property
    def failures(self) -> int:
        """How often this task failed here under one seed."""
        return len(list(self._folder.glob(f"{self._key}.*{FAILED}")))

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None when there is none that can be read."""
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # whatever a damaged file makes torch raise: it is as good as none
            self.drop()
            return None
        return state if state.get("format") == FORMAT else None

    def save(self, state: dict[str, Any]) -> None:
        """Raises OSError, for instance on a full disk; then the one before is still there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            with part.open("wb") as stream:
                torch.save(state | {"format": FORMAT}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self.path)
        except RuntimeError as error:  # torch's writer hides what the disk said
            raise OSError(str(error)) from error
        finally:
            part.unlink(missing_ok=True)

    def drop(self) -> None:
        """The task is over, well or refused: another go begins anew."""
        self.path.unlink(missing_ok=True)

    def fail(self) -> Path | None:
        """Puts the checkpoint aside and counts the failure. Returns where it lies now, or None without one."""
        aside = self._folder / f"{self._key}.{self.failures}{FAILED}"
        try:
            self.path.replace(aside)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                aside.touch()
            return None
        return aside


def remove_stale(folder: Path, keep_s: float) -> None:
    """Removes what nobody took up again."""
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another trainer may sweep too
            if file.suffix in (SUFFIX, FAILED, ".part") and time.time() - file.stat().st_mtime > keep_s:
                file.unlink()
