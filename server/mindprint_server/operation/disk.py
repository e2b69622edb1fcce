"""A full disk: how it is noticed before a write, and what a write that found it is told."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mindprint.private_files import make_private_folder
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


@contextmanager
def filled_temporary_file(folder: Path) -> Iterator[IO[bytes]]:
    """Yield a new file without a name, and leave it open for whoever reads it. After an error it is closed.

    Args:
        folder: Where the file is; the folder is made if it is missing.

    Raises:
        StorageFull: The disk is full, also if this shows only when the last bytes leave the buffer.
    """
    with full_disk_refused():
        make_private_folder(folder)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (whoever reads it closes it)
        try:
            yield file
            file.flush()
        except BaseException:
            # Closing writes what is left in the buffer, and fails on the full disk again. The file is closed even so.
            with suppress(OSError):
                file.close()
            raise


def remove_files(folder: Path) -> None:
    """Remove the files in a folder, if it exists: what a killed server was writing there."""
    for file in list(folder.iterdir()) if folder.is_dir() else ():
        file.unlink(missing_ok=True)
