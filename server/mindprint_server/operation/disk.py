"""A full disk: how it is noticed before a write, and what a write that found it is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindprint_server.exceptions import StorageFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def free_bytes(folder: Path) -> int:
    """Return the space that this process may fill on the disk of a folder, in bytes."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Raise StorageFull if the block finds the disk full, or a quota used up."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        message = "the disk of data_dir is full: free some space on it, then try again"
        raise StorageFull("storage_full", message) from error
