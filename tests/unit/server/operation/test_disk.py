"""What a full disk looks like to a write."""

from __future__ import annotations

import errno
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mindprint_server.exceptions import StorageFull
from mindprint_server.operation.disk import filled_temporary_file, free_bytes, full_disk_refused


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, which refuses every write")
@pytest.mark.parametrize("size", [10, 1_000_000], ids=["the buffer holds all", "the buffer is full"])
def test_file_that_does_not_fit_is_refused_whenever_this_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    opened: list[Any] = []

    def open_full(**_: object) -> Any:
        opened.append(open("/dev/full", "r+b"))  # noqa: SIM115
        return opened[0]

    monkeypatch.setattr(tempfile, "TemporaryFile", open_full)
    with (
        pytest.raises(StorageFull),
        filled_temporary_file(tmp_path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as zip,
    ):
        zip.writestr("weights", bytes(size))
    assert opened[0].closed


def test_file_that_fits_stays_open(tmp_path: Path) -> None:
    with filled_temporary_file(tmp_path / "new") as file:
        file.write(b"weights")
    file.seek(0)
    assert file.read() == b"weights"
    file.close()
