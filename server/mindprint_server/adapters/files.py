"""Adapter files on disk: written aside, synced, renamed. A folder with its final name is whole and never changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"


class AdapterFiles:
    """`<root>/<kind>/<name>/<version>/`, a plain PEFT folder with the manifest beside the weights."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, key: str, version: int) -> Path:
        return (self._root / key / f"{version:06d}").absolute()

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
