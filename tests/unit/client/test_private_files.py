"""Folders and files for their owner only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindprint.private_files import make_private, make_private_folder, private_umask


@pytest.fixture(autouse=True, params=[0, 0o022])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_missing_parents_are_private_and_existing_ones_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path / "a" / "b")
    assert [_mode(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [0o755, 0o700, 0o700]
    (tmp_path / "a").chmod(0o755)
    make_private_folder(tmp_path / "a")
    assert _mode(tmp_path / "a") == 0o700


def test_missing_file_is_left_out(tmp_path: Path) -> None:
    make_private(tmp_path / "nothing")
    (tmp_path / "file").touch(0o666)
    make_private(tmp_path / "file")
    assert _mode(tmp_path / "file") == 0o600


def test_umask_is_private_while_the_block_runs(tmp_path: Path) -> None:
    with private_umask():
        (tmp_path / "inside").touch()
    (tmp_path / "outside").touch()
    assert _mode(tmp_path / "inside") == 0o600
    assert _mode(tmp_path / "outside") != 0o600
