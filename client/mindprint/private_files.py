"""Folders and files that only their owner may read, whatever the umask. They hold users' texts and weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER, FILE = 0o700, 0o600


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, with the parents that are missing; or make an existing one so.

    The mode of a folder of another owner is left as it is.

    Raises:
        OSError: The folder cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in {folder, *made}:
        make_private(path)


def make_private(path: Path) -> None:
    """Let only the owner read and write a file or folder. One that is missing or another's is left as it is."""
    with suppress(PermissionError, FileNotFoundError):
        path.chmod(FOLDER if path.is_dir() else FILE)


@contextmanager
def private_umask() -> Iterator[None]:
    """Make what this process creates while the block runs private to its owner."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
