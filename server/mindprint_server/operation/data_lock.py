"""One server for one data folder: a lock that the operating system ends with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from pathlib import Path

from mindprint.private_files import FILE

TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


class FolderInUse(Exception):
    """Another server uses the data folder or the database, or the folder cannot be locked."""


class DataLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    Args:
        path: The file. It is made if it is missing, and stays.
        what: What the lock stands for, in words.

    Raises:
        FolderInUse: Another server holds it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, FILE)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            if error.errno in TAKEN:
                raise FolderInUse(
                    f"another server uses {what}: stop it, or set another data_dir, and with SQLite database_url"
                ) from None
            raise FolderInUse(f"cannot lock {path} ({error.strerror}): use a disk that has file locks") from error
        _held.add(self)

    def release(self) -> None:
        """End the lock. A second call does nothing."""
        if self in _held:
            _held.discard(self)
            os.close(self._handle)


_held: weakref.WeakSet[DataLock] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked child shares the lock: an engine process that outlives its server would keep the next one from starting.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_close_in_child)
