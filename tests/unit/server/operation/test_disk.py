"""What a full disk looks like to a write."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mindprint_server.exceptions import StorageFull
from mindprint_server.operation.disk import free_bytes, full_disk_refused


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_without_space_and_used_up_quota_are_storage_full(number: int) -> None:
    with pytest.raises(StorageFull) as caught, full_disk_refused():
        raise OSError(number, "no space")
    assert caught.value.code == "storage_full"


def test_other_error_of_the_system_stays_what_it_is() -> None:
    with pytest.raises(PermissionError), full_disk_refused():
        raise PermissionError(errno.EACCES, "no")


def test_free_space_is_that_of_the_folder(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0
